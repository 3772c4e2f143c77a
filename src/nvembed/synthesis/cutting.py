"""A document's text cut into passages: by headings first, then by length, with overlap."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nvembed.recipe.synthesis import Passages

Heading = tuple[str, ...]
_FENCE = re.compile(r"^\s{0,3}(```+|~~~+)")
_ATX = re.compile(r"^\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_UNDERLINE = re.compile(r"^\s{0,3}(=+|-+)\s*$")
_FRONT_MATTER = re.compile(r"\A---\r?\n.*?\r?\n---\r?\n", re.DOTALL)
_WORD = re.compile(r"\S+\s*")
_STOP = re.compile(r"[.!?:;…。!?][\"')\]]*\s*$")


def markdown_sections(text: str) -> list[tuple[Heading, str]]:
    """The text under each heading, with the headings above it, outermost first.

    `#` headings and underlined ones count, outside of fenced code; front matter is left out.
    """
    sections: list[tuple[Heading, str]] = []
    heads: list[tuple[int, str]] = []
    lines: list[str] = []

    def close() -> None:
        body = "\n".join(lines).strip()
        if body:
            sections.append((tuple(title for _, title in heads), body))
        lines.clear()

    def enter(level: int, title: str) -> None:
        close()
        while heads and heads[-1][0] >= level:
            heads.pop()
        if title:
            heads.append((level, title))

    fence = ""
    for line in _FRONT_MATTER.sub("", text, count=1).splitlines():
        if mark := _FENCE.match(line):
            fence = mark[1][:3] if not fence else "" if mark[1].startswith(fence) else fence
        elif not fence and (found := _ATX.match(line)):
            enter(len(found[1]), found[2])
            continue
        elif not fence and (found := _UNDERLINE.match(line)) and lines and lines[-1].strip():
            title = lines.pop().strip()
            enter(1 if found[1][0] == "=" else 2, title)
            continue
        lines.append(line)
    close()
    return sections


def cut_sections(sections: Iterable[tuple[Heading, str]], passages: Passages) -> list[str]:
    """The passages of a document, in order.

    A section of fewer than `min_words` is put before the next one, or after the last; a document that has no more than
    that in all gives none.
    """
    pieces: list[str] = []
    for heading, body in _joined(sections, passages.min_words):
        crumb = " > ".join(heading)
        for piece in _windows(body, passages.words, passages.overlap, passages.min_words):
            pieces.append(f"{crumb}\n\n{piece}" if crumb else piece)
    return pieces


def _joined(sections: Iterable[tuple[Heading, str]], least: int) -> Iterator[tuple[Heading, str]]:
    """Sections of `least` words or more: short ones go before the next, those left at the end after the last."""
    waiting: tuple[Heading, str] | None = None
    last: tuple[Heading, str] | None = None
    for heading, body in sections:
        if waiting is not None:
            under = heading[-1] if heading and heading != waiting[0] else ""
            heading, body = waiting[0], "\n\n".join(part for part in (waiting[1], under, body) if part)
        if len(body.split()) < least:
            waiting = heading, body
            continue
        waiting = None
        if last is not None:
            yield last
        last = heading, body
    if last is not None:
        yield (last[0], f"{last[1]}\n\n{waiting[1]}") if waiting is not None else last


def _windows(text: str, most: int, overlap: int, least: int) -> Iterator[str]:
    """Stretches of at most `most` words; each but the first begins with the last `overlap` words of the one before.

    A stretch ends at a paragraph's or sentence's end if there is one in its last third. What is left over at the end
    goes with the last stretch if it is shorter than `least`.
    """
    words = _WORD.findall(text.strip())
    start = 0
    while words:
        end = min(start + most, len(words))
        if len(words) - end < least and end < len(words):
            # a rest too short to stand alone: the last two stretches share what there is
            end = max(start + overlap + 1, start + (len(words) - start + overlap) // 2)
        if end < len(words):
            end = _good_end(words, max(start + overlap + 1, end - most // 3), end)
        yield "".join(words[start:end]).strip()
        if end >= len(words):
            return
        start = end - overlap


def _good_end(words: Sequence[str], first: int, end: int) -> int:
    """The last place between the two, both included, behind which a paragraph ends; else a sentence; else `end`."""
    for ends in (lambda word: "\n\n" in word, lambda word: _STOP.search(word) is not None):
        for place in range(end, first - 1, -1):
            if ends(words[place - 1]):
                return place
    return end
