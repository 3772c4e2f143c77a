"""One picture, read at a glance: what each model scores, and what training gained, with how sure one can be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.evaluation.verdict import METRIC_NAMES, gate_difference, interval, sentence, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = {
    "bm25": ("BM25", "#8C8C8C"),
    "base": ("Untrained backbone", "#333333"),
    "stage1": ("Stage 1", "#56B4E9"),
    "stage2": ("Stage 2", "#0072B2"),
    "champion": ("Champion", "#D55E00"),
}
"""Labels and colours: Okabe and Ito's palette, told apart by every common kind of colour blindness."""
INK, FAINT, BOUND = "#222222", "#DADADA", "#D55E00"
MOST_TASKS = 5
_TYPES = {"Retrieval": 0, "Reranking": 1, "Classification": 2, "Clustering": 3}
LEFT, PANEL, ROW, TOP, GAP, BOTTOM = 1.62, 2.9, 0.36, 1.02, 0.72, 0.4
"""Inches: room for labels, a task's column, a model's row, title, space between the two rows of panels, last scale."""


def draw_scores(content: dict[str, Any], file: Path) -> None:
    """Draw `scores.png`: a column a task, scores above, paired gains over the untrained backbone below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = task_order(content)[:MOST_TASKS]
    models = [name for name in content["scores"] if content["scores"][name].get(content["primary"]["split"])]
    gainers = [name for name in models if any(_gain(content, name, task) for task in tasks)]
    width = LEFT + PANEL * len(tasks)
    gap = GAP + ROW * len(gainers) if gainers else 0.0
    height = TOP + ROW * len(models) + gap + BOTTOM
    figure = Figure(figsize=(width, height), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)

    def panel(column: int, top: float, rows: int) -> Axes:
        box = (LEFT + PANEL * column, height - top - ROW * rows, PANEL - 0.22, ROW * rows)
        return figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))

    reach = _reach(content, gainers, tasks)
    for column, task in enumerate(tasks):
        _draw_task(panel(column, TOP, len(models)), content, task, models, first=column == 0)
        if gainers:
            axes = panel(column, TOP + ROW * len(models) + GAP, len(gainers))
            _draw_gains(axes, content, task, gainers, reach, first=column == 0)
    _write_title(figure, content, gains=bool(gainers))
    figure.savefig(file, metadata={"Software": None})


def task_order(content: dict[str, Any]) -> list[str]:
    """The primary split's tasks, the gate task first."""
    split, first = content["primary"]["split"], content["primary"]["task"]
    found = {task for model in content["scores"].values() for task in model.get(split, {})}
    kinds = {task: row["type"] for model in content["scores"].values() for task, row in model.get(split, {}).items()}
    return sorted(found, key=lambda task: (task != first, _TYPES.get(kinds[task], len(_TYPES)), kinds[task], task))


def _draw_task(axes: Axes, content: dict[str, Any], task: str, models: list[str], *, first: bool) -> None:
    split = content["primary"]["split"]
    found = {name: content["scores"][name][split].get(task) for name in models}
    metric = next(row["metric"] for row in found.values() if row)
    axes.set_title(f"{task}  ·  {METRIC_NAMES.get(metric, metric)}", loc="left", fontsize=9.5, color=INK, pad=7)
    ends = [row[end] for row in found.values() if row for end in ("low", "high")]
    room = max(max(ends) - min(ends), 0.02)
    axes.set_xlim(min(ends) - 0.1 * room, max(ends) + 0.34 * room)
    for place, name in enumerate(models):
        row = found[name]
        if row is None:
            axes.text(0.03, place, "does not apply", transform=axes.get_yaxis_transform(), **_small("#9A9A9A"))
            continue
        _dot(axes, place, row["score"], row["low"], row["high"], name)
        axes.text(
            row["high"] + 0.04 * room, place, f"{row['score']:.3f}", **_small(INK, bold=name == content["challenger"])
        )
    _frame(axes, [ROWS.get(name, (name, INK))[0] for name in models], first=first)


def _draw_gains(
    axes: Axes, content: dict[str, Any], task: str, gainers: list[str], reach: tuple[float, float], *, first: bool
) -> None:
    """Gains on one scale for all tasks, so that lengths can be compared from panel to panel."""
    low, high = reach
    room = high - low
    axes.set_xlim(low - (0.4 if low < -0.5 * room else 0.06) * room, high + 0.3 * room)
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    gate = content["verdict"]["gate"]
    averaged = task != gate["task"] and task in content["primary"]["tasks"]  # judged with others, not alone
    bound = gate["min_gain"] if task == gate["task"] else -gate["guard_margin"]
    if bound and not averaged:
        axes.axvline(bound, color=BOUND, linewidth=1.1, linestyle=(0, (3, 2)), zorder=1)
    for place, name in enumerate(gainers):
        row = _gain(content, name, task)
        if row:
            _dot(axes, place, row["mean"], row["low"], row["high"], name)
            sure = row["low"] > 0 or row["high"] < 0
            losing = row["mean"] < 0 and row["high"] < 0
            edge = row["low"] - 0.03 * room if losing else max(row["high"] + 0.03 * room, row["mean"] + 0.045 * room)
            look = _small(INK, bold=sure) | {"ha": "right" if losing else "left"}
            axes.text(edge, place, signed(row["mean"]), **look)
    if first:
        title = "paired gain over the untrained backbone"
        axes.set_title(title, loc="left", fontsize=9.5, color=INK, pad=6)
    _frame(axes, [ROWS.get(name, (name, INK))[0] for name in gainers], first=first)
    axes.xaxis.set_major_formatter(lambda value, _: "0" if abs(value) < 1e-9 else f"{value:+.2f}".replace("-", "−"))


def _reach(content: dict[str, Any], gainers: list[str], tasks: list[str]) -> tuple[float, float]:
    """The lowest and highest end of all gains, zero and the allowed loss among them."""
    rows = [row for name in gainers for task in tasks if (row := _gain(content, name, task))]
    low = min([-content["verdict"]["gate"]["guard_margin"], *(row["low"] for row in rows)])
    return low, max([0.01, *(row["high"] for row in rows)])


def _gain(content: dict[str, Any], name: str, task: str) -> dict[str, Any] | None:
    split = content["primary"]["split"]
    wanted = (split, task, name, "base")
    return next((d for d in content["differences"] if (d["split"], d["task"], d["a"], d["b"]) == wanted), None)


def _dot(axes: Axes, place: float, value: float, low: float, high: float, name: str) -> None:
    colour = ROWS.get(name, (name, INK))[1]
    axes.plot([low, high], [place, place], color=colour, linewidth=2.6, alpha=0.45, solid_capstyle="round", zorder=2)
    axes.plot([value], [place], marker="o", markersize=7, color=colour, markeredgecolor="white", zorder=3)


def _small(colour: str, *, bold: bool = False) -> dict[str, Any]:
    weight = "bold" if bold else "normal"
    plate = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}  # keeps grid lines out of digits
    return {"fontsize": 8.5, "color": colour, "va": "center_baseline", "fontweight": weight, "bbox": plate}


def _frame(axes: Axes, labels: list[str], *, first: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set_yticks(range(len(labels)), labels if first else [], fontsize=9.5, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8, colors="#666666", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3))
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _write_title(figure: Figure, content: dict[str, Any], *, gains: bool) -> None:
    verdict, primary = content["verdict"], content["primary"]
    title, height = "Held-out scores", figure.get_figheight()
    if content["challenger"]:
        title = sentence(verdict).rstrip(".")
        gap = gate_difference(content)
        if gap and (verdict["passed"] or primary["task"] in verdict["failed"]):
            metric = METRIC_NAMES.get(primary["metric"], primary["metric"])
            title += f": {primary['task']} {signed(gap['mean'])} {metric} {interval(gap['low'], gap['high'])}"
    left = 0.14 / figure.get_figwidth()
    size = min(12.5, 72 * (figure.get_figwidth() - 0.28) / (0.68 * len(title)))  # bold letters are 0.68 of their height
    figure.text(left, 1 - 0.13 / height, title, fontsize=size, fontweight="bold", color=INK, va="top")
    counts = sorted(
        {row["items"] for model in content["scores"].values() for row in model.get(primary["split"], {}).values()}
    )
    span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    under = f"{primary['split'].capitalize()} split, {span} items a task; bars: {content['confidence']:.0%} intervals"
    if gains:
        under += "; dashed: the most that may be lost"
    figure.text(left, 1 - 0.42 / height, under, fontsize=9, color="#666666", va="top")
