"""Vectors in several files, read as one array: `npy` files are memory-mapped and never read whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_OPEN_MAPS, _OPEN_TABLES = 256, 2  # a map holds a file descriptor, a Parquet part its rows


class Parts:
    """Rows of several files in order.

    `parts[5]`, `parts[10:20]` and `parts[[3, 1, 2]]` give rows, `parts.parts()` goes through the files in order,
    `np.asarray(parts)` reads all into memory.

    Attributes:
        shape, dtype: as of one array. files: the parts, in order.
    """

    def __init__(self, files: Sequence[Path], rows: Sequence[int], columns: int, dtype: str = "float32") -> None:
        """`rows`: how many each file holds; `columns`, `dtype`: of all of them."""
        self.files, self.dtype = list(files), np.dtype(dtype)
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(rows, dtype=np.int64))])
        self.shape = (int(self._starts[-1]), columns)
        mapped = all(file.suffix == ".npy" for file in files)
        self._part = lru_cache(maxsize=_OPEN_MAPS if mapped else _OPEN_TABLES)(self._open)

    def __len__(self) -> int:
        return self.shape[0]

    def __add__(self, other: Parts) -> Parts:
        """The rows of both."""
        rows = [*np.diff(self._starts), *np.diff(other._starts)]
        return Parts([*self.files, *other.files], rows, self.shape[1], self.dtype.name)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._run(start, max(start, stop)) if step == 1 else self._rows(np.arange(start, stop, step))
        rows = np.asarray(index)
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"row {index} of {len(self)} vectors")
        found = self._rows(np.atleast_1d(rows).astype(np.int64) % max(1, len(self)))
        return found if rows.ndim else found[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self._run(0, len(self))
        return whole if dtype is None else whole.astype(dtype)

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """(number of its first row, array) of each part, in order."""
        for number, start in enumerate(self._starts[:-1]):
            yield int(start), self._part(number)

    def _run(self, start: int, stop: int) -> np.ndarray:
        """Rows that follow each other: one copy a part."""
        found = np.empty((stop - start, self.shape[1]), self.dtype)
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        at = start
        while at < stop:
            first, end = int(self._starts[number]), min(stop, int(self._starts[number + 1]))
            if end > at:
                found[at - start : end - start] = self._part(number)[at - first : end - first]
            at, number = max(at, end), number + 1
        return found

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        bounds = np.searchsorted(ordered, self._starts)
        for number in np.flatnonzero(np.diff(bounds)):
            here = slice(bounds[number], bounds[number + 1])
            found[order[here]] = self._part(int(number))[ordered[here] - self._starts[number]]
        return found

    def _open(self, number: int) -> np.ndarray:
        file = self.files[number]
        if file.suffix == ".npy":
            return np.load(file, mmap_mode="r")
        import pyarrow.parquet as pq

        column: pa.FixedSizeListArray = pq.read_table(file, columns=["vector"]).column("vector").combine_chunks()
        return column.flatten().to_numpy().reshape(-1, self.shape[1])


class Reordered:
    """Rows of other vectors in another order: row i is theirs number `order[i]`, (n,) int64."""

    def __init__(self, vectors: Parts, order: np.ndarray) -> None:
        self._vectors, self._order = vectors, order
        self.shape = (len(order), vectors.shape[1])

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._vectors[self._order[index]]
