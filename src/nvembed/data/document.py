"""A report written once, shown twice: as Markdown and as one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from nvembed.core.artifacts import write_file

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .8rem 0; }
th, td { padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #d8dee4; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f6f8fa; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere; }
img { max-width: 100%; }
"""


class Document:
    """Headings, sentences, tables, quoted texts and pictures, in order."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._markdown = [f"# {title}"]
        self._html = [f"<h1>{escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._markdown.append(f"## {text}")
        self._html.append(f"<h2>{escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """Add a sentence or more."""
        self._markdown.append(text)
        self._html.append(f"<p>{escape(text)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
        """Add a table; integers stand to the right."""
        numeric = [all(isinstance(row[column], int) for row in rows) for column in range(len(header))]
        cells = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
        lines = [
            _row(header),
            _row(["---:" if right else "---" for right in numeric]),
            *(_row([cell.replace("|", "\\|") for cell in row]) for row in cells),
        ]
        self._markdown.append("\n".join(lines))
        tag = {True: ' class="number"', False: ""}
        head = "".join(f"<th{tag[right]}>{escape(name)}</th>" for name, right in zip(header, numeric, strict=True))
        body = "".join(
            "<tr>"
            + "".join(f"<td{tag[right]}>{escape(cell)}</td>" for cell, right in zip(row, numeric, strict=True))
            + "</tr>\n"
            for row in cells
        )
        self._html.append(f"<table>\n<tr>{head}</tr>\n{body}</table>")

    def quote(self, text: str) -> None:
        """Add a text as it is, line by line."""
        self._markdown.append("\n".join(f"    {line}" for line in text.splitlines()))
        self._html.append(f"<pre>{escape(text)}</pre>")

    def picture(self, file: Path, says: str) -> None:
        """Add a PNG: named in Markdown, embedded in HTML. `says` is what it shows, for those who do not see it."""
        self._markdown.append(f"![{says}]({file.name})")
        encoded = base64.b64encode(file.read_bytes()).decode()
        self._html.append(f'<img alt="{escape(says)}" src="data:image/png;base64,{encoded}">')

    def write(self, folder: Path) -> None:
        """Write `report.md` and `report.html`."""
        write_file(folder / "report.md", self.markdown())
        write_file(folder / "report.html", self.html())

    def markdown(self) -> str:
        """The whole as Markdown."""
        return "\n\n".join(self._markdown) + "\n"

    def html(self) -> str:
        """The whole as one HTML file that needs no other."""
        body = "\n".join(self._html)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self._title)}</title>'
            f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
        )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
