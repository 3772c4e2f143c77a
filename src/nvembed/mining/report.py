"""What a person reads after mining: how hard the negatives are, what each rule dropped, examples with both texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nvembed.data import Example
from nvembed.data.document import Document
from nvembed.mining.result import MinedRow, Tally, count_short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nvembed.recipe import Mining

PICTURE = "scores.png"
_EXAMPLES = 8
_POSITIVE, _NEGATIVE, _DROPPED = "#1b7837", "#c2571a", "#5b6b8c"


def write_report(
    folder: Path, mining: Mining, examples: Sequence[Example], rows: Sequence[MinedRow], tally: Tally
) -> None:
    """Write `report.md`, `report.html` and, if anything was mined, `scores.png`.

    Args:
        folder: where to. mining: the section that asked.
        examples, rows: the mined rows as they came and what was found for each.
    """
    document = Document("Hard negatives")
    if rows:
        draw_scores(folder / PICTURE, mining, rows, tally)
        document.picture(folder / PICTURE, "scores of positives and negatives; candidates dropped by each rule")
        document.table(("what", "how much"), _facts(mining, rows, tally))
        document.heading("Candidates dropped")
        document.table(("because it is", "candidates"), _drops(mining, tally))
        document.heading("Worth a look: the highest-scored negatives")
        document.table(("query", "positive", "hardest negative"), _hardest(examples, rows))
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


def draw_scores(file: Path, mining: Mining, rows: Sequence[MinedRow], tally: Tally) -> None:
    """Left: histograms of positive and negative scores. Right: how many candidates each rule dropped."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_histogram(left, rows)
    _draw_drops(right, mining, tally)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Software": None})


def _draw_histogram(axes: Axes, rows: Sequence[MinedRow]) -> None:
    positive = np.array([row.positive_score for row in rows])
    negative = np.array([score for row in rows for score in row.scores])
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
        title=f"Candidates dropped; {tally.left:,} passed ({tally.left / tally.candidates:.1%})",
    )


def _drops(mining: Mining, tally: Tally) -> list[tuple[str, int]]:
    names = {
        "positive": "a positive of the query",
        "query": "the query itself",
        "repeated": "a negative already",
        "shift": f"among the nearest {mining.shift}",
        "score": f"too close ({mining.method})",
    }
    unused = {"shift"} if mining.method != "shifted" else set()
    unused |= {"score"} if mining.method in ("naive", "shifted") else set()
    return [(names[name], count) for name, count in tally.dropped.items() if name not in unused]


def _facts(mining: Mining, rows: Sequence[MinedRow], tally: Tally) -> list[tuple[str, str]]:
    negatives = [score for row in rows for score in row.scores]
    short = count_short(rows, mining.num_negatives)
    facts = [
        ("teacher", mining.teacher.backbone),
        ("rule", describe_rule(mining)),
        ("queries", f"{len(rows):,} against {tally.corpus:,} passages, the nearest {tally.depth:,} looked at"),
        (
            "hard negatives",
            f"{len(negatives):,}, {len(negatives) / len(rows):.2f} a query ({mining.num_negatives} asked)",
        ),
        ("with fewer than asked", f"{short:,} queries ({short / len(rows):.1%}); no random text stands in"),
        ("a positive comes first", f"for {sum(row.positive_first for row in rows) / len(rows):.1%} of the queries"),
        ("positive's score, median", f"{np.median([row.positive_score for row in rows]):.3f}"),
    ]
    if negatives:
        facts.append(("negative's score, median", f"{np.median(negatives):.3f}"))
    own = sum(row.own for row in rows)
    if own or tally.own_dropped:
        facts.append(
            ("came with the data", f"{own:,} kept, {tally.own_dropped:,} left out (equal to query or positive)")
        )
    return facts


def _hardest(examples: Sequence[Example], rows: Sequence[MinedRow]) -> list[tuple[str, str, str]]:
    """Query, positive and mined negative of the highest scores: where an unlabelled answer is likeliest."""
    found = [(-row.scores[row.own], place) for place, row in enumerate(rows) if len(row.scores) > row.own]
    hardest = []
    for _, place in sorted(found)[:_EXAMPLES]:
        row, example = rows[place], examples[place]
        positive = f"{row.positive_score:.3f}: {_short(example.positive)}"
        hardest.append(
            (_short(example.query), positive, f"{row.scores[row.own]:.3f}: {_short(row.negatives[row.own])}")
        )
    return hardest


def _short(text: str, length: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
