"""Many tasks at once: which differences are more than the luck of the largest among them.

Of 56 tasks two or three differ "significantly" at 95 % though the models are equally good. Beside each task's own
interval and p-value stand those that hold for all tasks together, from the bootstrap draws (Westfall and Young
1993, maxT): how large does the largest of all standardised differences get when there is none? The step-down form
is to maxT what Holm's is to Bonferroni, and needs no p-values finer than the number of resamples can give.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nvembed.evaluation.stats import Draws

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Corrected:
    """A difference among several: its own two-sided p-value, the corrected one, and the simultaneous interval."""

    p: float
    p_corrected: float
    low_all: float
    high_all: float


def correct(differences: Mapping[Key, Draws], confidence: float) -> dict[Key, Corrected]:
    """Correct the differences of one pair of models on several tasks, which were resampled independently.

    Args:
        differences: of each task, all with the same number of draws.
        confidence: with which all simultaneous intervals hold at once.
    """
    if not differences:
        return {}
    names = list(differences)
    values = np.array([differences[name].value for name in names])
    errors = np.array([float(differences[name].drawn.std()) for name in names])
    moved = np.stack([differences[name].drawn - differences[name].value for name in names])  # (tasks, samples)
    safe = np.where(errors > 1e-12, errors, 1.0)
    null = np.where(errors[:, None] > 1e-12, np.abs(moved) / safe[:, None], 0.0)
    seen = np.where(errors > 1e-12, np.abs(values) / safe, np.where(np.abs(values) > 1e-12, np.inf, 0.0))
    own = [_share(null[row], seen[row]) for row in range(len(names))]
    stepped = _step_down(null, seen)
    reach = float(np.quantile(null.max(axis=0), confidence)) * errors
    rows = zip(names, own, stepped, values - reach, values + reach, strict=True)
    return {name: Corrected(p, max(p, all_), float(low), float(high)) for name, p, all_, low, high in rows}


def _share(null: np.ndarray, seen: float) -> float:
    """How often chance alone gets as far, the sample itself counted once: never 0."""
    return float((1 + (null >= seen).sum()) / (1 + null.shape[-1]))


def _step_down(null: np.ndarray, seen: np.ndarray) -> list[float]:
    """The largest is held against the largest of all, the next against the largest of the rest, and so on."""
    adjusted, reached = np.empty(len(seen)), 0.0
    order = np.argsort(-seen, kind="stable")
    for place, row in enumerate(order):
        reached = max(reached, _share(null[order[place:]].max(axis=0), seen[row]))
        adjusted[row] = reached
    return [float(p) for p in adjusted]
