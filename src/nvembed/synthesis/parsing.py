"""JSON out of whatever a model answers: fenced, with words around it, with a comma too many, or cut off."""

from __future__ import annotations

import json
import re
from typing import Any

_DECODER = json.JSONDecoder(strict=False)  # line ends inside strings are common and do no harm
_SPARE_COMMA = re.compile(r",(\s*[}\]])")
_MARK = re.compile(r"^(\d+[.)]|[-*•])\s+|^(question|query|keywords)\s*\d*\s*:\s*", re.I)
_QUOTES = "\"'“”„`"
_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)


def parse_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text; of one that was cut off, what stands complete. None if there is none."""
    text = _THOUGHTS.sub("", text)
    start = text.find("{")
    while start >= 0:
        found = _decode(text[start:])
        if found is not None:
            return found
        start = text.find("{", start + 1)
    return None


def _decode(text: str) -> dict[str, Any] | None:
    for candidate in (text, _without_spare_commas(text), *_closed(text)):
        try:
            found, _ = _DECODER.raw_decode(candidate)
        except (ValueError, RecursionError):
            continue
        return found if isinstance(found, dict) and found else None
    return None


def _without_spare_commas(text: str) -> str:
    """A comma before a closing bracket taken out, unless it stands in a string."""
    parts = re.split(r'("(?:[^"\\]|\\.)*")', text, flags=re.DOTALL)
    return "".join(part if part.startswith('"') else _SPARE_COMMA.sub(r"\1", part) for part in parts)


def _closed(text: str) -> list[str]:
    """A text that was cut off, ended behind the last complete item of its outermost list.

    Nothing for a text whose brackets all close.
    """
    open_brackets: list[str] = []
    ends: list[tuple[int, str]] = []  # where an item of a list was complete, and what closes all that is open there
    in_string = escaped = False
    for place, letter in enumerate(text):
        if in_string:
            if escaped:
                escaped = False
            elif letter == "\\":
                escaped = True
            elif letter == '"':
                in_string = False
                if open_brackets and open_brackets[-1] == "]":
                    ends.append((place + 1, "".join(reversed(open_brackets))))
            continue
        if letter == '"':
            in_string = True
        elif letter in "{[":
            open_brackets.append("}" if letter == "{" else "]")
        elif letter in "}]":
            if not open_brackets:
                return []
            open_brackets.pop()
            if not open_brackets:
                return []
            if open_brackets[-1] == "]":
                ends.append((place + 1, "".join(reversed(open_brackets))))
    # the outermost list's items alone: an inner list cut short would pass for a whole one
    least = min((len(closers) for _, closers in ends), default=0)
    whole = [(place, closers) for place, closers in ends if len(closers) == least]
    return [text[:place] + closers for place, closers in whole[-1:]]


def bare_lines(text: str) -> list[str]:
    """The lines of a bare answer without numbers, quotes and fences; what only leads to the next line is left out."""
    found = []
    for line in _THOUGHTS.sub("", text).splitlines():
        line = line.replace("**", "").strip()
        while mark := _MARK.match(line):
            line = line[mark.end() :]
        if len(line) > 1 and line[0] in _QUOTES and line[-1] in _QUOTES:
            line = line[1:-1].strip()
        if line and not line.endswith(":"):
            found.append(line)
    return found


def texts_in(value: Any) -> list[str]:
    """The texts of a value that should be a list of texts: stripped, without empty ones, each once."""
    items = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(item.strip() for item in items if isinstance(item, str) and item.strip()))
