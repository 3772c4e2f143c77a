"""What is asked of many examples at once: their tasks as numbers, digests of their texts, how long they are.

`ExampleTable` answers for a dataset on disk, `InMemory` for a list; `Chosen` are some of either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, overload

import numpy as np

from nvembed.data.example import Example
from nvembed.data.lengths import Lengths, example_tokens


class Columns(Protocol):
    """Examples by number, and their columns."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def codes(self, field: str) -> tuple[np.ndarray, list[str]]:
        """A short field of each example as numbers, (n,) int32, and what they stand for, in order of occurrence."""

    def keys(self, field: str) -> np.ndarray:
        """`text_key` of the `id`, `query` or `positive` of each example: (n,) uint64."""

    def tokens(self, lengths: Lengths) -> np.ndarray:
        """`lengths.example_tokens` of each example: (n,) int64."""


class InMemory:
    """The columns of a list of examples."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def codes(self, field: str) -> tuple[np.ndarray, list[str]]:
        """See `Columns`."""
        numbers: dict[str, int] = {}
        found = [numbers.setdefault(getattr(example, field), len(numbers)) for example in self.examples]
        return np.array(found, dtype=np.int32), list(numbers)

    def keys(self, field: str) -> np.ndarray:
        """See `Columns`."""
        return np.array([text_key(getattr(example, field)) for example in self.examples], dtype=np.uint64)

    def tokens(self, lengths: Lengths) -> np.ndarray:
        """See `Columns`."""
        return np.array([example_tokens(example, lengths) for example in self.examples])


class Chosen(Sequence[Example]):
    """Some of many examples, each read only when asked for. `rows` are their numbers among all, (n,) int."""

    def __init__(self, columns: Columns, rows: np.ndarray) -> None:
        self.columns, self.rows = columns, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Chosen: ...
    def __getitem__(self, index: Any) -> Any:
        """One example by its place; a slice is again a choice."""
        rows = self.rows[index]
        return Chosen(self.columns, rows) if isinstance(index, slice) else self.columns[int(rows)]


def text_key(text: str) -> int:
    """A 64-bit digest. Texts are told apart by it where confusing two in 10¹⁹ pairs does no harm."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
