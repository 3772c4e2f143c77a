"""The curves of a training stage as one picture: a panel for each thing that one watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.training.dev_check import SCORE
from nvembed.training.history import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#1f5fa8", "#c2571a", "#2a8a57", "#7a4fa3", "#8a8a2a", "#a33f5d")
_BAD = "#c02020"


@dataclass(frozen=True)
class Panel:
    """One panel: its title, and values with their legends; `noisy` ones get a running mean over the single steps."""

    title: str
    curves: tuple[tuple[str, str], ...]
    noisy: bool = True
    scale: float = 1.0


def panels_of(records: Sequence[Record]) -> list[Panel]:
    """The panels that these records have something for."""
    names = dict.fromkeys(name for record in records for name in record)
    lengths = tuple(name for name in names if name.startswith("matryoshka_"))
    parts = [("info_nce_loss", "InfoNCE"), ("distillation_loss", "distillation")]
    parts += [(name, f"first {name.split('_')[1]}") for name in lengths]
    every = [
        Panel("loss", (("loss", "whole" if "info_nce_loss" in names else "InfoNCE"), *parts)),
        Panel("nDCG@10 on dev", ((SCORE, "check"),), noisy=False),
        Panel("in-batch accuracy", (("in_batch_accuracy", "positive ranked first"),)),
        Panel("cosine similarity", (("positive_similarity", "positive"), ("negative_similarity", "negatives"))),
        Panel("gradient norm, before clipping", (("grad_norm", "gradient norm"),)),
        Panel("learning rate", (("learning_rate", "learning rate"),), noisy=False),
        Panel("real tokens per second", (("tokens_per_second", "tokens"),)),
        Panel("share of peak FLOPs, %", (("peak_share", "share"),), scale=100),
        Panel("seconds", (("step_seconds", "step"), ("data_wait_seconds", "waiting for data"))),
        Panel("memory at most, GB", (("memory_gigabytes", "memory"),), noisy=False),
    ]
    known = [(panel, tuple(curve for curve in panel.curves if curve[0] in names)) for panel in every]
    return [Panel(panel.title, curves, panel.noisy, panel.scale) for panel, curves in known if curves]


def draw(path: Path, name: str, records: Sequence[Record], given: int | None = None) -> None:
    """Write the picture. Steps left out are marked in every panel; `given` is the step whose weights were kept."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = panels_of(records)
    columns = 3 if len(panels) <= 9 else 4
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.3 * columns, 2.9 * rows + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    skipped = [record["step"] for record in records if record.get("skipped")]
    about = f"Training {name}" + (f", {len(skipped)} steps left out (red)" if skipped else "")
    figure.suptitle(about)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel, records)
        for step in skipped:
            axes.axvline(step, color=_BAD, alpha=0.35, linewidth=1)
        if given is not None and panel.curves[0][0] == SCORE:
            axes.axvline(given, color=_COLOURS[2], linestyle="--", linewidth=1.4, label=f"kept: step {given}")
            axes.legend(frameon=False)
    for axes in grid[max(len(panels) - columns, 0) : len(panels)]:
        axes.set_xlabel("step")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.savefig(path, metadata={"Software": None})


def _draw_panel(axes: Axes, panel: Panel, records: Sequence[Record]) -> None:
    """Each step pale with a running mean on top; what is not noisy as it is."""
    from matplotlib.ticker import MaxNLocator

    for (key, legend), colour in zip(panel.curves, _COLOURS, strict=False):
        points = [(record["step"], panel.scale * record[key]) for record in records if key in record]
        steps, values = zip(*points, strict=True)
        if not panel.noisy:
            axes.plot(steps, values, color=colour, linewidth=1.6, marker="o" if key == SCORE else None, markersize=4)
            continue
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
        axes.plot(steps, _running_mean(values), color=colour, linewidth=1.8, label=legend)
    if len(panel.curves) > 1:
        axes.legend(frameon=False)
    if panel.curves[0][0] == "learning_rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    if panel.curves[0][0] in ("memory_gigabytes", "peak_share", "tokens_per_second", "step_seconds"):
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlim(records[0]["step"] - 0.5, records[-1]["step"] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Mean of the last twentieth of all steps (at least of five) up to each step."""
    width = max(5, len(values) // 20)
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
