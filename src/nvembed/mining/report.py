"""What a person reads after mining: how hard the negatives are, what each rule dropped, examples with both texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nvembed.data.document import Document
from nvembed.mining.result import Mined, Pair, Tally

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nvembed.recipe import Mining, Teacher

PICTURE = "scores.png"
_EXAMPLES = 8
_POSITIVE, _NEGATIVE, _DROPPED = "#1b7837", "#c2571a", "#5b6b8c"


def write_report(folder: Path, mining: Mining, mined: Mined) -> None:
    """Write `report.md`, `report.html` and, if anything was mined, `scores.png` into a folder."""
    document = Document("Hard negatives")
    if mined.rows:
        draw_scores(folder / PICTURE, mining, mined)
        document.picture(folder / PICTURE, "scores of positives and negatives; candidates dropped by each rule")
        document.table(("what", "how much"), _facts(mining, mined))
        document.heading("Candidates dropped")
        document.table(("because it is", "candidates"), _drops(mining, mined.tally))
        document.heading("Worth a look: the highest-scored negatives")
        document.table(("query", "positive", "hardest negative"), _pairs(mined.hardest(_EXAMPLES)))
        if suspects := mined.suspects(_EXAMPLES):
            document.heading("Likely answers that the rule kept out")
            document.table(("query", "positive", "passage dropped"), _pairs(suspects))
    else:
        why = "no retrieval rows" if mining.enabled else "mining.enabled is false"
        document.paragraph(f"Nothing was mined: {why}.")
    document.write(folder)


def describe_rule(mining: Mining) -> str:
    """The score rule in words."""
    if mining.method == "percentage":
        return f"a negative scores below {mining.threshold:.0%} of the positive (NV-Retriever's percentage rule)"
    if mining.method == "margin":
        return f"a negative scores at least {mining.threshold:g} below the positive"
    if mining.method == "absolute":
        return f"a negative scores below {mining.threshold:g}"
    return f"the nearest {mining.shift} are left out" if mining.method == "shifted" else "none: the nearest are taken"


def draw_scores(file: Path, mining: Mining, mined: Mined) -> None:
    """Left: histograms of positive and negative scores. Right: how many candidates each rule dropped."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_histogram(left, mined)
    _draw_drops(right, mining, mined.tally)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Software": None})


def _draw_histogram(axes: Axes, mined: Mined) -> None:
    positive, negative = mined.positive_scores, mined.negative_scores
    both = np.concatenate([positive, negative])
    low, high = np.floor(both.min() * 20) / 20, np.ceil(both.max() * 20) / 20
    bins = np.linspace(low, max(high, low + 0.05), 41).tolist()
    for values, colour, name in ((negative, _NEGATIVE, "hard negatives"), (positive, _POSITIVE, "positives")):
        if not len(values):
            continue
        weights = np.full(len(values), 100 / len(values))
        axes.hist(values, bins, weights=weights, color=colour, alpha=0.55, label=f"{name} ({len(values):,})")
        axes.axvline(float(np.median(values)), color=colour, linewidth=1.5, linestyle="--")
    axes.set(xlabel="teacher's cosine with the query", ylabel="share of texts (%)", title="How close the texts are")
    axes.legend(frameon=False, title="dashed: the median", alignment="left")


def _draw_drops(axes: Axes, mining: Mining, tally: Tally) -> None:
    drops = _drops(mining, tally)[::-1]
    share = [100 * count / tally.candidates for _, count in drops]
    bars = axes.barh([name for name, _ in drops], share, color=_DROPPED, height=0.62)
    labels = [f"{count:,} ({value:.1f} %)" for (_, count), value in zip(drops, share, strict=True)]
    axes.bar_label(bars, labels, padding=4, fontsize=9)
    axes.set_xlim(0, max(1.0, max(share)) * 1.45)
    axes.set(
        xlabel=f"share of the {tally.candidates:,} candidates (%)",
        title=f"Candidates dropped; {tally.left / tally.candidates:.1%} passed",
    )


def _drops(mining: Mining, tally: Tally) -> list[tuple[str, int]]:
    names = {
        "positive": "a positive of the query",
        "query": "the query itself",
        "repeated": "a negative already",
        "shift": f"among the nearest {mining.shift}",
        "score": f"too close ({mining.method})",
        "near": "a near copy of these",
    }
    unused = {"shift"} if mining.method != "shifted" else set()
    unused |= {"score"} if mining.method in ("naive", "shifted") else set()
    unused |= {"near"} if mining.near_copies is None else set()
    return [(names[name], count) for name, count in tally.dropped.items() if name not in unused]


def _facts(mining: Mining, mined: Mined) -> list[tuple[str, str]]:
    tally, rows, negatives = mined.tally, mined.rows, mined.negative_scores
    facts = [
        ("teacher" if len(mining.teachers) == 1 else "teachers", ", ".join(map(_name, mining.teachers))),
        ("rule", describe_rule(mining)),
        ("queries", f"{rows:,} against {tally.corpus:,} passages"),
        (
            "depth of search",
            ", ".join(f"{depth:,} for {n:,} queries" for depth, n in sorted(tally.depths.items()) if n),
        ),
        ("hard negatives", f"{len(negatives):,}, {len(negatives) / rows:.2f} a query ({mining.num_negatives} asked)"),
        (
            "with fewer than asked",
            f"{mined.short:,} queries ({mined.short / rows:.1%}), {mined.without:,} have none; no random text instead",
        ),
        ("a positive comes first", f"for {mined.positives_first / rows:.1%} of the queries"),
        ("positive's score, median", f"{np.median(mined.positive_scores):.3f}"),
    ]
    if mining.cross_encoder is not None:
        facts.insert(1, ("scored anew by", mining.cross_encoder.backbone))
    if mining.sampling.enabled:
        drawn = f"among the best {mining.sampling.top}, temperature {mining.sampling.temperature:g}"
        facts.insert(2, ("drawn by softmax", drawn))
    if len(negatives):
        facts.append(("negative's score, median", f"{np.median(negatives):.3f}"))
    if mined.own or tally.own_dropped:
        facts.append(
            ("came with the data", f"{mined.own:,} kept, {tally.own_dropped:,} left out (equal to query or positive)")
        )
    return facts


def _name(teacher: Teacher) -> str:
    return "BM25" if teacher.kind == "bm25" else teacher.backbone


def _pairs(pairs: Sequence[Pair]) -> list[tuple[str, str, str]]:
    return [
        (
            _short(pair.query),
            f"{pair.positive_score:.3f}: {_short(pair.positive)}",
            f"{pair.score:.3f}: {_short(pair.passage)}",
        )
        for pair in pairs
    ]


def _short(text: str, length: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
