"""The vectors that an evaluation's tasks ask for, each text encoded once where that changes no bit of a result.

A vector depends a little (1e-7) on the texts it was encoded with. So that a task's result is the same whatever was
measured before it, in this process or in one that was killed, vectors are shared within a task as they come, and among
tasks only where the very same list of texts is asked for: its vectors follow from the list alone. Long lists (a corpus
comes in pieces of 50,000) go to the state folder, bounded by the recipe; short ones stay in memory.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nvembed.core.digests import digest_json
from nvembed.core.state import state_root

EncodeTexts = Callable[[list[str], str], np.ndarray]
"""(texts, instruction) -> float32 (n, dim), rows of norm 1, in the order of the texts."""
KIND = "evaluation-vectors"
LONG = 8192
"""Texts that make a list long."""
IN_MEMORY = 1 << 29
"""Bytes of short lists' vectors, of a task and of all tasks each."""


class Vectors:
    """Encodes with a memory.

    Args:
        encode_texts: what turns texts and an instruction into vectors.
        made_by: all that decides the vectors beside texts and instruction, for what is kept in the state; None:
            nothing is.
        most_bytes: of vectors in the state.

    Attributes:
        texts_encoded, seconds: how many, in how long.
    """

    def __init__(
        self, encode_texts: EncodeTexts, *, made_by: dict[str, Any] | None = None, most_bytes: float = 0
    ) -> None:
        self._encode, self._made_by, self._most = encode_texts, made_by, most_bytes
        self._task: dict[tuple[str, str], np.ndarray] = {}
        self._task_bytes = 0
        self._lists: OrderedDict[str, np.ndarray] = OrderedDict()
        self._in_use: set[Path] = set()
        self.texts_encoded = 0
        self.seconds = 0.0

    def begin_task(self) -> None:
        """Forget what the last task asked for piece by piece; whole lists stay."""
        self._task, self._task_bytes, self._in_use = {}, 0, set()

    def of(self, texts: Sequence[str], instruction: str) -> np.ndarray:
        """Vectors of texts under one instruction: (n, dim), in their order."""
        distinct = list(dict.fromkeys(texts))
        if len(distinct) >= LONG:
            rows = {text: row for row, text in enumerate(distinct)}
            return self._long(distinct, instruction)[[rows[text] for text in texts]]
        missing = [text for text in distinct if (instruction, text) not in self._task]
        if missing:
            found = self._short(missing, instruction)
            if self._task_bytes + found.nbytes > IN_MEMORY and len(missing) < len(distinct):
                missing, found = distinct, self._short(distinct, instruction)  # what is forgotten now is asked for too
            if self._task_bytes + found.nbytes > IN_MEMORY:
                self._task, self._task_bytes = {}, 0
            self._task.update({(instruction, text): row for text, row in zip(missing, found, strict=True)})
            self._task_bytes += found.nbytes
        return np.stack([self._task[instruction, text] for text in texts])

    def _short(self, texts: list[str], instruction: str) -> np.ndarray:
        from nvembed.encoding.encode import texts_digest

        ordered = sorted(texts)
        name = digest_json([instruction, texts_digest(ordered)])
        if name not in self._lists:
            self._lists[name] = self._new(ordered, instruction)
            while len(self._lists) > 1 and sum(found.nbytes for found in self._lists.values()) > IN_MEMORY:
                self._lists.popitem(last=False)
        self._lists.move_to_end(name)
        rows = {text: row for row, text in enumerate(ordered)}
        return self._lists[name][[rows[text] for text in texts]]

    def _long(self, texts: list[str], instruction: str) -> np.ndarray:
        if self._made_by is None or not self._most:
            return self._new(texts, instruction)
        from nvembed.encoding.encode import kept_vectors, texts_digest

        made = {**self._made_by, "instruction": instruction, "texts": texts_digest(texts)}
        file = kept_vectors(made, lambda: self._new(texts, instruction), kind=KIND)
        found: np.ndarray = np.load(file)  # whole: another process may make room by removing the file
        self._in_use.add(file)
        self._make_room(file)
        return found

    def _make_room(self, newest: Path) -> None:
        """Remove the oldest files beyond the bound: those of earlier tasks first, then the newest."""
        held = {}
        for file in (state_root() / KIND).glob("*/vectors.npy"):
            try:
                stat = file.stat()
            except FileNotFoundError:  # removed by another process just now
                continue
            held[file] = (stat.st_mtime, stat.st_size)
        total = sum(size for _, size in held.values())
        spare = sorted((file for file in held if file not in self._in_use), key=lambda file: held[file])
        for file in [*spare, newest]:
            if total <= self._most:
                return
            total -= held[file][1] if file in held else 0
            file.unlink(missing_ok=True)
            self._in_use.discard(file)

    def _new(self, texts: list[str], instruction: str) -> np.ndarray:
        started = time.monotonic()
        found = self._encode(texts, instruction)
        self.seconds += time.monotonic() - started
        self.texts_encoded += len(texts)
        return found
