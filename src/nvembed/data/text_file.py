"""Texts on disk, taken by number: what a mining run reads at random without holding a corpus in memory.

One Arrow IPC file, memory-mapped for reading: the operating system keeps of it what there is room for.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.core.state import hold

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 20_000
_PREFIX = "texts-"


class TextFile:
    """First written to, then read from."""

    def __init__(self, file: Path) -> None:
        import pyarrow as pa

        self._file = file
        self._schema = pa.schema([pa.field("text", pa.large_string(), nullable=False)])
        self._writer: Any = pa.ipc.new_file(str(file), self._schema)
        self._starts = [0]
        self._waiting: list[str] = []
        self._batches: list[pa.Array] = []

    def __len__(self) -> int:
        return self._starts[-1] + len(self._waiting)

    def add(self, texts: Sequence[str]) -> int:
        """Append texts; the number of the first of them."""
        first = len(self)
        self._waiting += texts
        while len(self._waiting) >= BATCH:
            self._write(BATCH)
        return first

    def close(self) -> None:
        """End the writing; from here on the file is read."""
        import pyarrow as pa

        if self._waiting:
            self._write(len(self._waiting))
        self._writer.close()
        reader = pa.ipc.open_file(pa.memory_map(str(self._file)))
        self._batches = [reader.get_batch(number).column(0) for number in range(reader.num_record_batches)]

    def take(self, numbers: np.ndarray) -> list[str]:
        """The texts of these numbers, in their order."""
        import pyarrow as pa

        order = np.argsort(numbers, kind="stable")
        ordered = np.asarray(numbers, dtype=np.int64)[order]
        bounds = np.searchsorted(ordered, self._starts)
        found: list[str] = []
        for number, (start, stop) in enumerate(pairwise(bounds)):
            if start < stop:
                local = pa.array(ordered[start:stop] - self._starts[number])
                found += self._batches[number].take(local).to_pylist()
        texts = np.empty(len(found), dtype=object)
        texts[order] = found
        return list(texts)

    def _write(self, count: int) -> None:
        import pyarrow as pa

        head, self._waiting = self._waiting[:count], self._waiting[count:]
        self._writer.write_batch(pa.record_batch([pa.array(head, pa.large_string())], schema=self._schema))
        self._starts.append(self._starts[-1] + count)


@contextlib.contextmanager
def text_file(folder: Path) -> Iterator[TextFile]:
    """A file of texts in a folder of its own under `folder`, gone when the work is done.

    What a killed process left there goes now: nobody holds its lock any more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(TimeoutError, FileNotFoundError), hold(leftover, timeout=0):
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder) as place, hold(Path(place)):
        yield TextFile(Path(place) / "texts.arrow")
