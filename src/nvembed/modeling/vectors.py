"""Vectors made smaller for storage: fewer dimensions, 8-bit integers, single bits. Plain numpy, row by row.

No form needs anything beside the stored array: each row is scaled by itself, so that rows can be added to an index one
at a time, and a cosine needs neither a calibration set nor a stored scale. `to_float32` reads any of them back.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from nvembed.core.errors import UserError

Stored = Literal["float32", "int8", "binary"]
STORED: tuple[Stored, ...] = ("float32", "int8", "binary")


def truncate(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """The first `dimensions` columns k, again of norm 1: y = x[:k] / ‖x[:k]‖ (Matryoshka, arXiv 2205.13147).

    (n, dim) → float32 (n, k). A row whose first k entries are all zero stays zero; k = dim changes nothing.

    Raises UserError unless 1 ≤ k ≤ dim.
    """
    check_dimensions(dimensions, vectors.shape[1])
    return vectors if dimensions == vectors.shape[1] else _unit(vectors[:, :dimensions])


def check_dimensions(dimensions: int, dim: int) -> None:
    """Raise UserError unless `dimensions` is a whole number from 1 to `dim`."""
    whole = isinstance(dimensions, int | np.integer) and not isinstance(dimensions, bool)
    if not whole or not 1 <= dimensions <= dim:
        raise UserError(f"dimensions {dimensions!r}: this model's vectors have {dim}; give a whole number up to that")


def to_int8(vectors: np.ndarray) -> np.ndarray:
    """q = round(127 · x / max|x|), the maximum over the row: int8 (n, dim) in [-127, 127], symmetric round 0.

    No entry is off by more than max|x| / 254. Cosines of q are cosines of x up to that rounding, since they do not
    depend on a row's scale.
    """
    peaks = np.abs(vectors).max(axis=1, keepdims=True)
    return np.rint(vectors * (127 / np.where(peaks > 0, peaks, 1))).astype(np.int8)


def to_binary(vectors: np.ndarray) -> np.ndarray:
    """One bit a dimension, set where x > 0: uint8 (n, ⌈dim / 8⌉), the first dimension in the highest bit.

    The last byte is filled with zeros. This is what Sentence Transformers calls `ubinary`. Over k dimensions that
    differ in h bits, the cosine of two rows is 1 - 2h/k.
    """
    return np.packbits(vectors > 0, axis=1)


def to_float32(stored: np.ndarray, dimensions: int | None = None) -> np.ndarray:
    """Stored vectors as float32 rows of norm 1, so that a matrix product gives cosines.

    float32 comes back as it is, int8 divided by its norm, bits as ±1/√k. Queries may stay in float32 while documents
    are stored smaller: `queries @ to_float32(documents).T`.

    Args:
        stored: (n, width) float32, int8 or uint8 (bits).
        dimensions: how many bits of a row count, k; None: all, 8 · width. The other forms ignore it.
    """
    if stored.dtype == np.uint8:
        bits = np.unpackbits(stored, axis=1, count=dimensions).astype(np.float32)
        return (2 * bits - 1) / np.float32(np.sqrt(bits.shape[1]))
    return _unit(stored) if stored.dtype == np.int8 else np.asarray(stored, dtype=np.float32)


def store(vectors: np.ndarray, stored: Stored, dimensions: int) -> np.ndarray:
    """float32 (n, dim) → the stored form of the first `dimensions`."""
    kept = truncate(vectors, dimensions)
    return to_int8(kept) if stored == "int8" else to_binary(kept) if stored == "binary" else kept


def stored_shape(stored: Stored, dimensions: int) -> tuple[int, np.dtype]:
    """Columns and type of a stored array."""
    if stored == "binary":
        return (dimensions + 7) // 8, np.dtype(np.uint8)
    return dimensions, np.dtype(np.int8 if stored == "int8" else np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
