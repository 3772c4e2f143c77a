"""The picture for many tasks: one row a task, its paired gain with its interval, grouped by type, winners on top."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.evaluation.figure import FAINT, INK, ROWS
from nvembed.evaluation.verdict import sentence, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BETTER, WORSE, OPEN = "#0072B2", "#D55E00", "#8C8C8C"
LEFT, RIGHT, WIDTH, ROW, TOP, BOTTOM = 3.1, 1.75, 9.6, 0.19, 0.95, 0.45
"""Inches: room for names, for scores, the whole width, a row, title, scale."""


def draw_forest(content: Mapping[str, Any], file: Path) -> None:
    """Draw the challenger's gains over its rival on every task of the primary split that both were measured on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    verdict, split = content["verdict"], content["primary"]["split"]
    pair = (verdict["challenger"], verdict["beats"])
    gains = [d for d in content["differences"] if (d["split"], d["a"], d["b"]) == (split, *pair)]
    scores = [content["scores"].get(name, {}).get(split, {}) for name in pair]
    kind = {task: row["type"] for task, row in {**scores[1], **scores[0]}.items()}
    gains = sorted(gains, key=lambda d: (kind[d["task"]], -d["mean"], d["task"]))
    groups = [(name, list(rows)) for name, rows in groupby(gains, key=lambda d: kind[d["task"]])]
    lines = len(gains) + 1.6 * len(groups)
    height = TOP + ROW * max(lines, 1) + BOTTOM
    figure = Figure(figsize=(WIDTH, height), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((LEFT / WIDTH, BOTTOM / height, (WIDTH - LEFT - RIGHT) / WIDTH, ROW * lines / height))
    place = 0.0
    for name, rows in groups:
        mean = sum(row["mean"] for row in rows) / len(rows)
        _text(axes, -0.02, place + 0.3, f"{name}, {len(rows)}: mean {signed(mean)}", ha="right", fontweight="bold")
        place += 1.3
        for row in rows:
            _row(axes, place, row, *(table[row["task"]]["score"] for table in scores))
            place += 1
        place += 0.3
    _frame(axes, lines)
    _title(figure, content, gains)
    figure.savefig(file, metadata={"Software": None})


def _row(axes: Axes, place: float, row: Mapping[str, Any], after: float, before: float) -> None:
    colour = BETTER if row["low"] > 0 else WORSE if row["high"] < 0 else OPEN
    axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2, alpha=0.5, solid_capstyle="round")
    axes.plot([row["mean"]], [place], marker="o", markersize=4.6, color=colour, markeredgecolor="white", zorder=3)
    _text(axes, -0.02, place, row["task"], ha="right")
    _text(axes, 1.02, place, f"{before:.3f} → {after:.3f}  {signed(row['mean'])}", color=colour)


def _text(axes: Axes, x: float, place: float, text: str, **look: Any) -> None:
    look = {"fontsize": 7.5, "va": "center_baseline", "color": INK, **look}
    axes.text(x, place, text, transform=axes.get_yaxis_transform(), clip_on=False, **look)


def _frame(axes: Axes, lines: float) -> None:
    axes.set_ylim(lines - 0.4, -0.6)
    axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=7.5, colors="#666666", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: "0" if abs(value) < 1e-9 else f"{value:+.2f}".replace("-", "−"))
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def _title(figure: Any, content: Mapping[str, Any], gains: list[Mapping[str, Any]]) -> None:
    better, worse = sum(row["low"] > 0 for row in gains), sum(row["high"] < 0 for row in gains)
    height, verdict = figure.get_figheight(), content["verdict"]
    title = sentence(verdict) if content["challenger"] else "Held-out scores"
    figure.text(0.015, 1 - 0.13 / height, title, fontsize=12, fontweight="bold", color=INK, va="top")
    rival = ROWS.get(verdict["beats"], (verdict["beats"], ""))[0].lower()
    under = (
        f"Paired gain over the {rival} on {len(gains)} tasks, {content['confidence']:.0%} intervals: "
        f"{better} better, {worse} worse, {len(gains) - better - worse} not resolved"
    )
    figure.text(0.015, 1 - 0.42 / height, under, fontsize=8.5, color="#666666", va="top")
