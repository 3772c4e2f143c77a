"""A forest plot: each variant's difference from its family's baseline, a column a task, a block of rows a family."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.evaluation.figure import FAINT, INK
from nvembed.evaluation.verdict import METRIC_NAMES, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"better": "#0072B2", "worse": "#D55E00", "not resolved": "#8C8C8C"}
"""Okabe and Ito's, told apart by every common kind of colour blindness."""
LEFT, COLUMN, ROW, TOP, BOTTOM = 3.1, 2.9, 0.3, 0.98, 0.42
"""Inches: room for labels, a task's column, a row, the title, the scale."""
GREY = "#666666"


def draw_forest(content: dict[str, Any], file: Path) -> None:
    """Draw the plot of `results.json`'s content."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    families = content["families"]
    tasks = [*dict.fromkeys(task for family in families.values() for task in family["tasks"])]
    rows = _rows(content)
    width, height = LEFT + COLUMN * len(tasks), TOP + ROW * len(rows) + BOTTOM
    figure = Figure(figsize=(width, height), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    for column, task in enumerate(tasks):
        box = (LEFT + COLUMN * column + 0.1, BOTTOM, COLUMN - 0.25, ROW * len(rows))
        axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
        _draw_task(axes, content, rows, task, labels=column == 0)
    figure.text(
        0.14 / width, 1 - 0.12 / height, "Differences from the baseline", fontsize=12.5, fontweight="bold", va="top"
    )
    under = (
        f"test split, {len(content['seeds'])} seeds; bars: {content['confidence']:.0%} intervals over seeds and items"
    )
    under += ", ticks: single seeds; arrows: beyond the scale"
    figure.text(0.14 / width, 1 - 0.4 / height, under, fontsize=9, color=GREY, va="top")
    place = 0.14
    for verdict, colour in COLOURS.items():
        figure.text(place / width, 1 - 0.62 / height, f"● {verdict}", fontsize=9, color=colour, va="top")
        place += 0.32 + 0.078 * len(verdict)
    figure.savefig(file, metadata={"Software": None})


def _rows(content: dict[str, Any]) -> list[tuple[str, str | None]]:
    """(family, variant) from top to bottom; a family's own line has no variant."""
    rows: list[tuple[str, str | None]] = []
    for name, family in content["families"].items():
        rows += [(name, None), *((name, variant) for variant in family["variants"])]
    return rows


def _draw_task(
    axes: Axes, content: dict[str, Any], rows: list[tuple[str, str | None]], task: str, labels: bool
) -> None:
    found = {
        (name, d["variant"]): d
        for name, f in content["families"].items()
        for d in f["differences"]
        if d["task"] == task
    }
    cap = _cap(list(found.values()))
    ends = [0.0, *(max(-cap, min(cap, d[end])) for d in found.values() for end in ("low", "high"))]
    room = max(max(ends) - min(ends), 0.01)
    axes.set_xlim(min(ends) - 0.08 * room, max(ends) + 0.4 * room)
    metric = next(d["metric"] for d in found.values())
    axes.set_title(f"{task}  ·  {METRIC_NAMES.get(metric, metric)}", loc="left", fontsize=9.5, color=INK, pad=5)
    names = []
    for place, (name, variant) in enumerate(rows):
        family = content["families"][name]
        names.append(name if variant is None else family["variants"][variant]["label"])
        if variant is None or task not in family["tasks"]:
            continue
        if variant == family["baseline"]:
            axes.plot([0], [place], "D", markersize=5, color="white", markeredgecolor=INK, zorder=3)
            continue
        _draw_difference(axes, place, found[name, variant], cap, max(ends) + 0.37 * room)
    _draw_spine(axes, content, rows, task)
    _frame(axes, rows, names, labels=labels)


def _draw_spine(axes: Axes, content: dict[str, Any], rows: list[tuple[str, str | None]], task: str) -> None:
    """The baseline's line, through the families that have the task; the others say why they are empty."""
    for name, family in content["families"].items():
        places = [place for place, (owner, variant) in enumerate(rows) if owner == name and variant is not None]
        if task in family["tasks"]:
            axes.plot([0, 0], [places[0] - 0.45, places[-1] + 0.45], color=INK, linewidth=1, zorder=1)
        else:
            middle = (places[0] + places[-1]) / 2
            axes.text(
                0.04, middle, "not trained on", transform=axes.get_yaxis_transform(), fontsize=8.5, color="#9A9A9A"
            )


def _cap(rows: list[dict[str, Any]]) -> float:
    """Where bars are cut, so that one wide interval (a training that collapsed) does not flatten all others."""
    reaches = sorted(max(abs(row["low"]), abs(row["high"])) for row in rows)
    return max(3 * reaches[len(reaches) // 2], 1.2 * max(abs(row["mean"]) for row in rows), 0.005)


def _draw_difference(axes: Axes, place: int, row: dict[str, Any], cap: float, edge: float) -> None:
    colour = COLOURS[row["verdict"]]
    low, high = max(row["low"], -cap), min(row["high"], cap)
    axes.plot([low, high], [place] * 2, color=colour, linewidth=2.4, alpha=0.5, solid_capstyle="round")
    for end, cut, mark in ((low, row["low"] < -cap, "<"), (high, row["high"] > cap, ">")):
        if cut:
            axes.plot([end], [place], mark, color=colour, markersize=6, zorder=2)
    seeds = [seed for seed in row["seeds"] if abs(seed) <= cap]
    axes.plot(seeds, [place] * len(seeds), "|", color=colour, markersize=7, markeredgewidth=1, zorder=2)
    axes.plot([row["mean"]], [place], "o", markersize=6.5, color=colour, markeredgecolor="white", zorder=3)
    weight = "normal" if row["verdict"] == "not resolved" else "bold"
    axes.text(edge, place, signed(row["mean"]), fontsize=8.5, color=INK, va="center", ha="right", fontweight=weight)


def _frame(axes: Axes, rows: list[tuple[str, str | None]], names: list[str], *, labels: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), names if labels else [], fontsize=9, color=INK)
    for label, (_, variant) in zip(axes.get_yticklabels(), rows, strict=False):
        label.set_fontweight("bold" if variant is None else "normal")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8, colors=GREY, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], min_n_ticks=3))
    axes.xaxis.set_major_formatter(lambda value, _: "0" if abs(value) < 1e-9 else f"{value:+.2f}".replace("-", "−"))
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
