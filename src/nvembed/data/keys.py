"""Sets of 64-bit numbers that grow to tens of millions: sorted arrays, eight bytes a number, no Python objects."""

from __future__ import annotations

import numpy as np


class KeySet:
    """Numbers seen so far. A few sorted arrays, each at least twice as large as the next: adding sorts little."""

    def __init__(self) -> None:
        self._levels: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def first_seen(self, keys: np.ndarray) -> np.ndarray:
        """Which of these stand for the first time, here and in all calls before, and remember them: (n,) bool."""
        unique, places = np.unique(keys, return_index=True)
        fresh = ~self._holds(unique)
        mask = np.zeros(len(keys), bool)
        mask[places[fresh]] = True
        self._add(unique[fresh])
        return mask

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """Which of these were seen: (n,) bool."""
        return self._holds(keys)

    def _holds(self, keys: np.ndarray) -> np.ndarray:
        found = np.zeros(len(keys), bool)
        for level in self._levels:
            places = np.minimum(np.searchsorted(level, keys), len(level) - 1)
            found |= level[places] == keys
        return found

    def _add(self, keys: np.ndarray) -> None:
        if not len(keys):
            return
        self._levels.append(keys)
        while len(self._levels) > 1 and len(self._levels[-2]) < 2 * len(self._levels[-1]):
            last, before = self._levels.pop(), self._levels.pop()
            self._levels.append(np.sort(np.concatenate([before, last])))
