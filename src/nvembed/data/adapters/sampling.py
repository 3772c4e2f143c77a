"""Which records a cap keeps: those whose digests are the smallest, so that the choice hangs on content and seed alone.

Two passes over the rows in place of a heap of texts: the first finds the largest digest that is kept, in eight bytes a
record; the second keeps. Neither the order of rows nor how they are divided among shards changes the choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

_HELD = 1 << 18  # ranks gathered before they are sorted among those that are kept


def rank(seed: str, key: str) -> int:
    """A record's place in the order from which a cap takes the first: 64 bits, even over all keys."""
    digest = hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def limit_of(ranks: Iterable[int], cap: int) -> int | None:
    """The `cap`-th smallest of the different ranks; None if there are no more than `cap`, so that all are kept.

    Needs memory for `cap` numbers and some hundred thousand more, however many come.
    """
    kept = np.empty(0, np.uint64)
    held: list[int] = []
    more = False
    for number in ranks:
        held.append(number)
        if len(held) >= _HELD:
            kept, cut = _smallest(kept, held, cap)
            more, held = more or cut, []
    kept, cut = _smallest(kept, held, cap)
    return int(kept[-1]) if more or cut else None


def _smallest(kept: np.ndarray, held: list[int], cap: int) -> tuple[np.ndarray, bool]:
    both = np.unique(np.concatenate([kept, np.array(held, np.uint64)]))
    return both[:cap], len(both) > cap


class Seen:
    """Which numbers came before, in about eight bytes each however many there are."""

    def __init__(self, young: int = 1 << 20) -> None:
        self._most = young
        self._young: set[int] = set()
        self._old = np.empty(0, np.uint64)  # sorted

    def add(self, number: int) -> bool:
        """Remember a number of 64 bits; False if it was there already."""
        if number in self._young or self._is_old(number):
            return False
        self._young.add(number)
        if len(self._young) >= self._most:
            self._old = np.sort(np.concatenate([self._old, np.fromiter(self._young, np.uint64)]))
            self._young = set()
        return True

    def _is_old(self, number: int) -> bool:
        place = int(np.searchsorted(self._old, np.uint64(number))) if len(self._old) else 0
        return place < len(self._old) and int(self._old[place]) == number
