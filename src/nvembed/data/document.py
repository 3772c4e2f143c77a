"""A report written once, shown twice: as Markdown and as one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from nvembed.core.artifacts import write_file

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; } h3 { font-size: 1rem; }
.verdict { font-size: 1.15rem; font-weight: 600; padding: .6rem .9rem; border-left: 4px solid; background: #f6f7f8; }
.passed { border-color: #0072b2; } .failed { border-color: #d55e00; }
.note { color: #57606a; font-size: .88rem; margin: .4rem 0; }
.wide { overflow-x: auto; font-size: .85rem; }
.firm td, .foreign td:first-child { white-space: nowrap; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; margin: .8rem 0; }
th, td { padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #d8dee4; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f6f8fa; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere; }
img { max-width: 100%; }
"""
_MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>#~"})


class Document:
    """Headings, sentences, tables, quoted texts and pictures, in order."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._markdown = [f"# {title}"]
        self._html = [f"<h1>{escape(title)}</h1>"]

    def heading(self, text: str, level: int = 2) -> None:
        """Begin a section (level 2) or a part of one (3)."""
        self._markdown.append(f"{'#' * level} {text}")
        self._html.append(f"<h{level}>{escape(text)}</h{level}>")

    def paragraph(self, text: str) -> None:
        """Add a sentence or more."""
        self._markdown.append(text)
        self._html.append(f"<p>{escape(text)}</p>")

    def note(self, text: str) -> None:
        """Add what explains the rest, in small print."""
        self._markdown.append(text)
        self._html.append(f'<p class="note">{escape(text.replace("`", ""))}</p>')

    def verdict(self, text: str, *, passed: bool) -> None:
        """Add the sentence that the page is about."""
        self._markdown.append(f"**{text}**")
        self._html.append(f'<p class="verdict {"passed" if passed else "failed"}">{escape(text)}</p>')

    def points(self, texts: Sequence[str]) -> None:
        """Add a list of sentences."""
        self._markdown.append("\n".join(f"- {text}" for text in texts))
        self._html.append("<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>")

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str | int]], *, firm: bool = False, foreign: bool = False
    ) -> None:
        """Add a table; integers stand to the right.

        `firm`: its lines are not broken, it scrolls where it is too wide. `foreign`: its cells are texts of a corpus,
        whose marks are shown as they stand.
        """
        numeric = [all(isinstance(row[column], int) for row in rows) for column in range(len(header))]
        cells = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
        shown = [[cell.translate(_MARKS) for cell in row] for row in cells] if foreign else cells
        lines = [
            _row(header),
            _row(["---:" if right else "---" for right in numeric]),
            *(_row([cell.replace("|", "\\|") for cell in row]) for row in shown),
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
        kind = ' class="firm"' if firm else ' class="foreign"' if foreign else ""
        self._html.append(f'<div class="wide"><table{kind}>\n<tr>{head}</tr>\n{body}</table></div>')

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


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts in Markdown."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"{_row(line)}\n" for line in lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
