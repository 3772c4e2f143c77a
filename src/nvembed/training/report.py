"""Curves of a training stage, as a picture and as a page that stands alone."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import write_file
from nvembed.training.history import Record

if TYPE_CHECKING:
    from nvembed.training.composition import Composition

_PANELS: list[tuple[str, list[tuple[str, str]]]] = [
    ("loss", [("loss", "InfoNCE")]),
    ("in-batch accuracy", [("in_batch_accuracy", "positive ranked first")]),
    ("cosine similarity", [("positive_similarity", "positive"), ("negative_similarity", "negatives")]),
    ("learning rate", [("learning_rate", "learning rate")]),
]
_COLOURS = ("#1f5fa8", "#c2571a")


def write_report(
    folder: Path,
    name: str,
    records: Sequence[Record],
    headline: Mapping[str, float],
    stage: Mapping[str, Any],
    *,
    composition: Composition,
) -> None:
    """Write `curves.png` and `report.html` into `folder`."""
    _draw(folder / "curves.png", name, records)
    picture = base64.b64encode((folder / "curves.png").read_bytes()).decode()
    facts = "".join(
        f"<tr><td>{html.escape(key.removeprefix(name + '.').replace('_', ' '))}</td><td>{value:,.4g}</td></tr>"
        for key, value in headline.items()
    )
    keys = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>" for key, value in _leaves(stage)
    )
    title = html.escape(f"Training {name}")
    write_file(
        folder / "report.html",
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }} td {{ border-bottom: 1px solid #ddd; padding: .2rem 1rem .2rem 0 }}
img {{ width: 100% }}
</style></head><body>
<h1>{title}</h1>
<table>{facts}</table>
<p><img alt="loss, in-batch accuracy, cosine similarities and learning rate over steps"
 src="data:image/png;base64,{picture}"></p>
{composition.html()}
<h2>Recipe section</h2>
<table>{keys}</table>
</body></html>
""",
    )


def _leaves(section: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys of a section and of those inside it, as a recipe's overrides name them."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in _leaves(value))
        else:
            yield key, value


def _draw(path: Path, name: str, records: Sequence[Record]) -> None:
    """Four panels over steps: each step pale, a running mean on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 6.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Training {name}")
    steps = [record["step"] for record in records]
    for axes, (label, curves) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for (key, legend), colour in zip(curves, _COLOURS, strict=False):
            values = [record[key] for record in records]
            if key == "learning_rate":
                axes.plot(steps, values, color=colour, linewidth=1.6)
                axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
                continue
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
            axes.plot(steps, _running_mean(values), color=colour, linewidth=1.8, label=legend)
        if len(curves) > 1:
            axes.legend(frameon=False)
        axes.set_ylabel(label)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})


def _running_mean(values: Sequence[float]) -> list[float]:
    """Mean of the last twentieth of all steps (at least of five) up to each step."""
    width = max(5, len(values) // 20)
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
