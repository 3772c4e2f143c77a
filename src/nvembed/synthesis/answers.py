"""What endpoints answered and what it took, kept on disk line by line as it comes: a kill costs no answer.

`answers.jsonl` holds one JSON object a line: `key` (digest of all that decides a request), `text`, `model`, `sent` and
`answered` (tokens), `cost` (None: prices not known), `state`. A line without text is a request that took something and
gave nothing, as one that timed out. A line `under way` is written before a request is sent, with what it will likely
take: if no line of its key follows, a kill came between, and it counts as spent.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Container
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

FILE = "answers.jsonl"
State = Literal["ended", "under way", "took nothing"]


@dataclass(frozen=True)
class Spent:
    """Requests that endpoints worked on, tokens of both ways, and money as far as prices are known."""

    requests: int = 0
    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.requests + other.requests, self.tokens + other.tokens, self.cost + other.cost)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.requests - other.requests, self.tokens - other.tokens, self.cost - other.cost)


@dataclass(frozen=True)
class Answer:
    """A line of the file; see the module's docstring."""

    key: str
    text: str | None
    model: str
    sent: int
    answered: int
    cost: float | None
    state: State = "ended"

    @property
    def spent(self) -> Spent:
        """What it took."""
        return Spent(1, self.sent + self.answered, self.cost or 0.0)


class Answers:
    """The answers of a folder.

    One process at a time: hold the folder, or say `look`, which only reads and may do so beside another.
    """

    def __init__(self, folder: Path, *, look: bool = False) -> None:
        self._file, self._lock = folder / FILE, threading.Lock()
        self._by_key: dict[str, Answer] = {}
        self._lines: list[Answer] = []
        self._under_way: dict[str, Answer] = {}
        self._read(mend=not look)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def keys(self) -> set[str]:
        """The requests that are answered."""
        return set(self._by_key)

    def get(self, key: str) -> Answer | None:
        """What was answered to a request, if it was."""
        return self._by_key.get(key)

    def spent(self, keys: Container[str]) -> Spent:
        """What these requests took so far, those that gave nothing included, and those that a kill ended."""
        lines = [*self._lines, *self._under_way.values()]
        return sum((line.spent for line in lines if line.key in keys), Spent())

    def add(self, answer: Answer) -> None:
        """Keep a line; it is on disk when this returns."""
        line = (json.dumps(asdict(answer), ensure_ascii=False) + "\n").encode()
        with self._lock:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                while line:
                    line = line[os.write(descriptor, line) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._note(answer)

    def _note(self, answer: Answer) -> None:
        before = self._under_way.pop(answer.key, None)
        if answer.state == "under way":
            if before is not None:  # an earlier process was killed while it waited
                self._lines.append(before)
            self._under_way[answer.key] = answer
        elif answer.state == "ended":
            self._lines.append(answer)
        if answer.text is not None:
            self._by_key[answer.key] = answer

    def _read(self, *, mend: bool) -> None:
        if not self._file.is_file():
            return
        raw = self._file.read_bytes()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw) and mend:  # a line that a kill tore; what comes next must not be glued to it
            os.truncate(self._file, whole)
        for line in raw[:whole].splitlines():
            try:
                self._note(Answer(**json.loads(line)))
            except (ValueError, TypeError):
                continue  # a damaged line costs its answer, which is then asked for anew
