"""Curves of a training stage, as a picture and as a page that stands alone."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import write_file
from nvembed.training.bad_steps import BAD_BATCHES, read_bad_batches
from nvembed.training.curves import draw
from nvembed.training.history import Record

if TYPE_CHECKING:
    from nvembed.training.composition import Composition


def write_report(
    folder: Path,
    name: str,
    records: Sequence[Record],
    headline: Mapping[str, float],
    stage: Mapping[str, Any],
    *,
    composition: Composition,
    given: int | None = None,
) -> None:
    """Write `curves.png` and `report.html` into `folder`; bad batches are read from their file there.

    `given`: the step whose weights were kept, where checks on dev decided it.
    """
    draw(folder / "curves.png", name, records, given)
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
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }} td {{ border-bottom: 1px solid #ddd; padding: .2rem 1rem .2rem 0 }}
img {{ width: 100% }}
</style></head><body>
<h1>{title}</h1>
<table>{facts}</table>
<p><img alt="loss, accuracy, similarities, gradient norm, learning rate, speed and memory over steps"
 src="data:image/png;base64,{picture}"></p>
{_bad_steps(folder / BAD_BATCHES)}{composition.html()}
<h2>Recipe section</h2>
<table>{keys}</table>
</body></html>
""",
    )


def _bad_steps(file: Path) -> str:
    """A table of the steps that were left out; nothing if none was."""
    rows = [
        f"<tr><td>{entry['step']}</td><td>{html.escape(entry['why'])}</td><td>{len(entry['examples'])}</td></tr>"
        for entry in read_bad_batches(file)
    ]
    if not rows:
        return ""
    head = f"<tr><td>step</td><td>why</td><td>examples, by id in {file.name}</td></tr>"
    return f"<h2>Steps left out</h2>\n<table>{head}{''.join(rows)}</table>\n"


def _leaves(section: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys of a section and of those inside it, as a recipe's overrides name them."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in _leaves(value))
        else:
            yield key, value
