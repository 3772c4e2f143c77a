"""The order of an epoch's examples: batches of like length, and none with the same example twice.

An order is an array of places, of which each `batch_size` are a batch; what is left at the end fills none.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

MEGA = 50  # batches among whose examples those of like length are put together
TRIES = 50  # places looked at for an example that may stay where it is


def group_by_length(order: np.ndarray, batch_size: int, lengths: np.ndarray, draw: random.Random) -> np.ndarray:
    """Examples of like length in one batch: each `MEGA` batches are sorted by length, then all batches are shuffled.

    Args:
        order: (n,) places.
        batch_size: examples of a batch.
        lengths: by place.
        draw: shuffles the batches.
    """
    full = len(order) // batch_size * batch_size
    pieces = [order[start : start + MEGA * batch_size] for start in range(0, full, MEGA * batch_size)]
    pieces[-1] = order[(len(pieces) - 1) * MEGA * batch_size : full]
    in_order = np.concatenate([piece[np.argsort(-lengths[piece], kind="stable")] for piece in pieces])
    batches = list(range(full // batch_size))
    draw.shuffle(batches)
    return np.concatenate([in_order.reshape(-1, batch_size)[batches].ravel(), order[full:]])


def separate(
    order: np.ndarray, batch_size: int, labels: Sequence[np.ndarray], draw: random.Random, *, always: bool
) -> np.ndarray:
    """Exchange examples until no batch holds a label twice.

    Args:
        order: (n,) places.
        batch_size: examples of a batch.
        labels: by place, one array a kind of label: an example's own number, its query's, its positive's.
        draw: says where an example is moved to.
        always: whether it must be so. That is possible if no label occurs oftener than there are full batches, and
            then it is reached: the clashing batch with the fewest different labels lacks a clashing one's label nowhere
            but in batches with still fewer, of which there are none. Otherwise each clash is tried `TRIES` times.
    """
    swaps = _Swaps(order.copy(), batch_size, labels, draw)
    while len(clashes := swaps.clashes()):
        moved = sum(swaps.mend(place, always=always) for place in clashes.tolist())
        if not always or not moved:
            break
    return swaps.order


class _Swaps:
    def __init__(self, order: np.ndarray, batch_size: int, labels: Sequence[np.ndarray], draw: random.Random) -> None:
        self.order, self.size, self.labels, self.draw = order, batch_size, labels, draw
        self.full = len(order) // batch_size * batch_size

    def clashes(self) -> np.ndarray:
        """Positions whose label stands earlier in their batch too, rising."""
        batch = np.arange(self.full) // self.size
        found = []
        for label in self.labels:
            values = label[self.order[: self.full]]
            by = np.lexsort((values, batch))  # stable: among equals the first position is none
            same = (values[by][1:] == values[by][:-1]) & (batch[by][1:] == batch[by][:-1])
            found.append(by[1:][same])
        return np.unique(np.concatenate(found))

    def mend(self, place: int, *, always: bool) -> bool:
        """Exchange a position with one where neither clashes; whether it then clashes no more."""
        if self._fits(self.order[place], place):
            return True  # an earlier exchange took the other one away
        for _ in range(TRIES):
            if self._exchange(place, self.draw.randrange(len(self.order))):
                return True
        return always and any(self._exchange(place, other) for other in range(len(self.order)))

    def _exchange(self, place: int, other: int) -> bool:
        order = self.order
        if other // self.size == place // self.size:
            return False
        if not (self._fits(order[other], place) and self._fits(order[place], other)):
            return False
        order[[place, other]] = order[[other, place]]
        return True

    def _fits(self, example: int, place: int) -> bool:
        """Whether an example at a position has no label of the rest of its batch."""
        if place >= self.full:
            return True
        start = place // self.size * self.size
        batch = self.order[start : start + self.size]
        for label in self.labels:
            same = label[batch] == label[example]
            same[place - start] = False
            if same.any():
                return False
        return True
