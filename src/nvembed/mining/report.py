"""What a person reads after mining: how hard the negatives are, what each rule dropped, examples with both texts."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nvembed.core.artifacts import write_file
from nvembed.data import Example
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
    if not rows:
        why = "no retrieval rows" if mining.enabled else "mining.enabled is false"
        write_file(folder / "report.md", f"# Hard negatives\n\nNothing was mined: {why}.\n")
        write_file(folder / "report.html", _page(f"<p>Nothing was mined: {why}.</p>"))
        return
    draw_scores(folder / PICTURE, mining, rows, tally)
    facts = _facts(mining, rows, tally)
    drops = _drops(mining, tally)
    hardest = _hardest(examples, rows)
    write_file(folder / "report.md", _markdown(facts, drops, hardest))
    write_file(folder / "report.html", _html(folder, facts, drops, hardest))


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


_HEAD = ("query", "positive", "hardest negative")


def _markdown(facts: list[tuple[str, str]], drops: list[tuple[str, int]], hardest: list[tuple[str, str, str]]) -> str:
    def table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> list[str]:
        cells = [[str(cell).replace("|", "\\|") for cell in line] for line in [head, ["---"] * len(head), *lines]]
        return ["| " + " | ".join(line) + " |" for line in cells]

    parts = [
        *["# Hard negatives", "", f"![scores]({PICTURE})", ""],
        *[*table(("what", "how much"), facts), ""],
        *["## Candidates dropped", "", *table(("because it is", "candidates"), [(n, f"{c:,}") for n, c in drops]), ""],
        *["## Worth a look: the highest-scored negatives", "", *table(_HEAD, hardest)],
    ]
    return "\n".join(parts) + "\n"


def _html(
    folder: Path, facts: list[tuple[str, str]], drops: list[tuple[str, int]], hardest: list[tuple[str, str, str]]
) -> str:
    def table(lines: Sequence[Sequence[object]], head: Sequence[str] = ()) -> str:
        top = "<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>" if head else ""
        body = ("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in line) + "</tr>" for line in lines)
        return f"<table>{top}{''.join(body)}</table>"

    picture = base64.b64encode((folder / PICTURE).read_bytes()).decode()  # the page is shown apart from its folder
    return _page(
        f'<img src="data:image/png;base64,{picture}" '
        'alt="Scores of positives and negatives; candidates dropped by each rule">'
        + table(facts)
        + "<h2>Candidates dropped</h2>"
        + table([(name, f"{count:,}") for name, count in drops], ("because it is", "candidates"))
        + "<h2>Worth a look: the highest-scored negatives</h2>"
        + table(hardest, _HEAD)
    )


def _page(body: str) -> str:
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "td,th{border-bottom:1px solid #ddd;padding:.3rem .7rem;text-align:left;vertical-align:top}"
        "table{border-collapse:collapse}img{max-width:100%}"
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Hard negatives</title>'
        f"<style>{style}</style><body><h1>Hard negatives</h1>{body}</body></html>\n"
    )
