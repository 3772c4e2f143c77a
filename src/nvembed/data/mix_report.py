"""What a mix is, for people: its sources, their sizes and lengths, what was dropped and why, examples of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.data.document import Document
from nvembed.data.merging import LONGEST, Merged
from nvembed.data.report import show_examples

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nvembed.recipe import Data

_COLOURS = {  # Tol's bright scheme: told apart by all eyes
    "retrieval": "#4477aa",
    "classification": "#ee6677",
    "clustering": "#228833",
    "sts": "#ccbb44",
    "pair": "#aa3377",
}
_CUT = 160  # characters of a dropped text that are shown


def write_mix_report(folder: Path, data: Data, merged: Merged, about: Mapping[str, Any]) -> None:
    """Write `report.png`, `report.md` and `report.html` into a mix's dataset folder."""
    lineage = about["sources"]
    picture = folder / "report.png"
    _draw(picture, lineage, merged.lengths)
    document = Document(f"Data: a mix of {len(lineage)} sources")
    document.paragraph(
        f"{merged.counts['train_examples']:,} training examples from {about['rows']:,} rows; "
        f"{merged.counts['train_passages']:,} passages to mine; held out are "
        f"{merged.counts.get('dev_retrieval_queries', 0):,} queries for dev."
    )
    document.picture(picture, "examples of every source by kind of task, and how long its queries and passages are")
    _sources(document, lineage, merged.lengths)
    _dropped(document, lineage, merged, about)
    _left_out(document, about)
    document.heading("Licences")
    document.table(
        ["source", "licence in the recipe", "on the card", "revision"],
        [[one["name"], one["license"], one["license_on_card"] or "–", one["revision"][:12]] for one in lineage],
    )
    _notes(document, lineage)
    show_examples(document, ((f"{name} ({e.task_type})", e) for name, some in merged.shown.items() for e in some))
    document.write(folder)


def _sources(
    document: Document, lineage: Sequence[Mapping[str, Any]], lengths: Mapping[tuple[str, str], np.ndarray]
) -> None:
    total = max(sum(one["examples"] for one in lineage), 1)
    document.heading("Sources")
    document.table(
        ["source", "task", "stages", "rows", "left by the cap", "dropped", "examples", "%", "words: query", "passage"],
        [
            [
                one["name"],
                one["task_type"],
                "+".join(map(str, one["stages"])),
                one["rows"],
                one["left_by_cap"],
                sum(one["dropped"].values()),
                one["examples"],
                f"{100 * one['examples'] / total:.1f}",
                *(_range(lengths.get((one["name"], kind))) for kind in ("query", "passage")),
            ]
            for one in lineage
        ],
    )
    document.paragraph("Words: median, and in brackets the shortest and longest of the middle 90 %.")


def _dropped(
    document: Document, lineage: Sequence[Mapping[str, Any]], merged: Merged, about: Mapping[str, Any]
) -> None:
    document.heading("Dropped")
    rules = [(one["name"], rule, number) for one in lineage for rule, number in one["dropped"].items()]
    rules += [(one["name"], "unusable row", one["unusable_rows"]) for one in lineage if one["unusable_rows"]]
    rules += [(one["name"], "negative alone", one["dropped_negatives"]) for one in lineage if one["dropped_negatives"]]
    if rules:
        document.table(["source", "rule", "dropped"], sorted(rules))
    else:
        document.paragraph("Nothing was dropped.")
    checked = about["decontamination"]["checked_against"]
    document.heading("Evaluation texts")
    if not checked:
        document.paragraph(
            "Training was not checked against any evaluation task (data.decontamination.tasks is empty)."
        )
    else:
        texts = sum(one["texts"] for one in checked.values())
        document.paragraph(
            f"Training was checked against {texts:,} texts of {len(checked)} tasks: {', '.join(sorted(checked))}."
        )
    if merged.dropped_shown:
        document.paragraph("Some of what was dropped; dropped.parquet lists all of it.")
        document.table(
            ["source", "field", "how", "alike", "task", "training text", "evaluation text"],
            [
                [
                    row["source"],
                    row["field"],
                    row["kind"],
                    f"{row['similarity']:.2f}",
                    row["task"],
                    _short(row["text"]),
                    _short(row["evaluation_text"]),
                ]
                for row in merged.dropped_shown
            ],
        )


def _left_out(document: Document, about: Mapping[str, Any]) -> None:
    if about["left_out"]:
        document.heading("Sources left out")
        document.table(["source", "why"], sorted(about["left_out"].items()))


def _notes(document: Document, lineage: Sequence[Mapping[str, Any]]) -> None:
    notes = [(one["name"], said) for one in lineage for said in one["notes"]]
    if notes:
        document.heading("Found otherwise than the recipe has it")
        document.table(["source", "note"], notes)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _CUT else text[:_CUT] + " …"


def quantiles(numbers: np.ndarray, *shares: float) -> list[int]:
    """The lengths below which these shares of the texts lie; `numbers[n]` texts have n words."""
    cumulated = np.cumsum(numbers)
    return [int(np.searchsorted(cumulated, share * cumulated[-1])) for share in shares]


def _range(numbers: np.ndarray | None) -> str:
    if numbers is None or not numbers.sum():
        return "–"
    low, middle, high = quantiles(numbers, 0.05, 0.5, 0.95)
    return f"{middle} [{low}, {high}{' and more' if high >= LONGEST else ''}]"


def _draw(file: Path, lineage: Sequence[Mapping[str, Any]], lengths: Mapping[tuple[str, str], np.ndarray]) -> None:
    """Two panels, a line for each source, the largest first within its kind of task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = list(_COLOURS)
    rows = sorted(lineage, key=lambda one: (kinds.index(one["task_type"]), -one["examples"], one["name"]))
    figure = Figure(figsize=(12, 1.6 + 0.24 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    sizes, words = figure.subplots(1, 2, sharey=True, width_ratios=[1.2, 1])
    names = [str(one["name"]) for one in rows]
    drawn = sizes.barh(names, [one["examples"] for one in rows], color=[_COLOURS[one["task_type"]] for one in rows])
    sizes.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=8)
    sizes.set_xscale("log")
    sizes.set_xlim(left=0.8)
    sizes.margins(x=0.15)
    sizes.invert_yaxis()
    sizes.set_title("Examples of each source", loc="left")
    sizes.set_xlabel("training examples, logarithmic")
    present = dict.fromkeys(one["task_type"] for one in rows)
    handles = [sizes.barh([names[0]], [0], color=_COLOURS[kind], label=kind) for kind in present]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False)
    _draw_words(words, names, lengths)
    for axes in (sizes, words):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", labelsize=8)
    figure.savefig(file, dpi=110)


def _draw_words(axes: Axes, names: Sequence[str], lengths: Mapping[tuple[str, str], np.ndarray]) -> None:
    """A dot at the median and a line over the middle 90 %, queries above passages."""
    for kind, shift, colour in (("query", -0.18, "#bbbbbb"), ("passage", 0.18, "#333333")):
        places = [at for at, name in enumerate(names) if lengths[name, kind].sum()]
        found = np.array([quantiles(lengths[names[at], kind], 0.05, 0.5, 0.95) for at in places]).reshape(-1, 3)
        heights = [at + shift for at in places]
        axes.hlines(heights, np.maximum(found[:, 0], 1), found[:, 2], color=colour, linewidth=2)
        axes.plot(found[:, 1], heights, "o", color=colour, markersize=4, label=kind)
    axes.set_xscale("log")
    axes.set_title("Words: median and the middle 90 %", loc="left")
    axes.set_xlabel("words, logarithmic")
    axes.legend(frameon=False, loc="lower right")
