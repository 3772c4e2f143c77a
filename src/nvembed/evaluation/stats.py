"""How sure is a score, and how sure is a gain: the bootstrap, with the unit that fits the task.

Queries (retrieval) and test items (classification) have a score each, and the task's score is their mean. Clustering
has no score of a document: documents are resampled and v-measure is computed anew from the stored assignments. Two
models are compared on the same resamples (paired), so what makes an item hard for both does not widen the interval.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nvembed.core.errors import UserError

_CHUNK = 4_000_000
"""Counts (samples × items) held at once: 32 MB."""
JACKKNIFE_GROUPS = 500


@dataclass(frozen=True)
class Interval:
    """A value and the interval around it, in the unit of the metric."""

    mean: float
    low: float
    high: float


class Statistic(Protocol):
    """A task's score as a function of how often each item counts."""

    size: int

    def value(self, counts: np.ndarray) -> np.ndarray:
        """Score for each row of `counts`, (samples, items) float64 → (samples,)."""
        ...


class Mean:
    """The mean of items' own scores."""

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = np.asarray(scores, dtype=np.float64)
        self.size = len(self._scores)

    def value(self, counts: np.ndarray) -> np.ndarray:
        """Weighted mean."""
        return counts @ self._scores / counts.sum(axis=1)


class VMeasure:
    """The mean v-measure (Rosenberg and Hirschberg 2007) of several clusterings of the same documents.

    Args:
        labels: (documents,) the true classes.
        assignments: (clusterings, documents) the cluster of each document, -1 where it was not drawn.
        draws: (clusterings, documents) how often it was drawn.
    """

    def __init__(self, labels: np.ndarray, assignments: np.ndarray, draws: np.ndarray) -> None:
        labels, assignments, draws = np.asarray(labels), np.atleast_2d(assignments), np.atleast_2d(draws)
        self.size = len(labels)
        self._clusterings = [
            self._tables(labels, row, times) for row, times in zip(assignments, draws, strict=True) if times.any()
        ]

    @staticmethod
    def _tables(labels: np.ndarray, clusters: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        drawn = clusters >= 0
        label = np.unique(labels, return_inverse=True)[1]
        cluster = np.where(drawn, clusters, 0)
        joint = np.unique(label * (cluster.max() + 1) + cluster, return_inverse=True)[1]
        return np.where(drawn, draws, 0).astype(np.float64), [label, cluster, joint]

    def value(self, counts: np.ndarray) -> np.ndarray:
        """V-measure = 2 I(label; cluster) / (H(label) + H(cluster)), 1 where both entropies are 0."""
        total = np.zeros(len(counts))
        for draws, groupings in self._clusterings:
            weights = counts * draws
            by_label, by_cluster, joint = (_entropy(weights, groups) for groups in groupings)
            both = by_label + by_cluster
            information = np.maximum(both - joint, 0.0)
            total += np.divide(2 * information, both, out=np.ones_like(both), where=both > 1e-12)
        return total / len(self._clusterings)


def _entropy(weights: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Entropy in nats of the share of each group, for each row of weights: (samples, items) → (samples,)."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sums = np.add.reduceat(weights[:, order], starts, axis=1)
    total = sums.sum(axis=1)
    logs = np.log(sums, out=np.zeros_like(sums), where=sums > 0)
    return np.log(total) - (sums * logs).sum(axis=1) / total


def observed(statistic: Statistic) -> float:
    """The score itself: every item counts once."""
    return float(statistic.value(np.ones((1, statistic.size)))[0])


def resamples(statistics: list[Statistic], samples: int, seed: int) -> np.ndarray:
    """Scores of several models on the same resamples of their common items, (models, samples)."""
    size = statistics[0].size
    if any(statistic.size != size for statistic in statistics):
        raise UserError("the evaluations to be compared hold different numbers of items; evaluate on the same sets")
    rows = [[statistic.value(counts) for statistic in statistics] for counts in _counts(size, samples, seed)]
    return np.concatenate(rows, axis=1)


def _counts(size: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // size)
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        drawn = rng.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def left_out(statistic: Statistic, seed: int) -> np.ndarray:
    """Scores with a share of the items left out, each in turn: one item, or at most `JACKKNIFE_GROUPS` groups."""
    groups = min(statistic.size, JACKKNIFE_GROUPS)
    group = np.random.default_rng(seed).permutation(np.arange(statistic.size) % groups)
    step = max(1, _CHUNK // statistic.size)
    blocks = [np.arange(start, min(start + step, groups)) for start in range(0, groups, step)]
    return np.concatenate([statistic.value((group != block[:, None]).astype(np.float64)) for block in blocks])


def jackknife_error(values: np.ndarray) -> float:
    """The standard error from leave-out values (Tukey's jackknife)."""
    return float(np.sqrt((len(values) - 1) * np.var(values)))


def percentile_interval(value: float, drawn: np.ndarray, confidence: float, error: float | None = None) -> Interval:
    """The percentile bootstrap interval (Efron); with `error` given, its draws are first moved and stretched.

    V-measure needs that: repeated documents agree with themselves, so resamples score higher than the sample they come
    from and differ less from each other than samples do. The draws are centred on `value` and stretched to the
    standard error `error` that the jackknife, which repeats nothing, finds. A mean needs neither.
    """
    tail = (1 - confidence) / 2
    if error is not None:
        spread = float(drawn.std())
        drawn = value + (drawn - drawn.mean()) * (error / spread if spread > 1e-12 else 1.0)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


class Sampled:
    """Several models on one task: resampled together, so that each score and each difference has its interval."""

    def __init__(self, statistics: Mapping[str, Statistic], *, samples: int, confidence: float, seed: int) -> None:
        names = list(statistics)
        self._confidence = confidence
        self._values = {name: observed(statistics[name]) for name in names}
        rows = resamples([statistics[name] for name in names], samples, seed)
        self._drawn = dict(zip(names, rows, strict=True))
        uneven = any(isinstance(statistic, VMeasure) for statistic in statistics.values())
        self._left_out = {name: left_out(statistics[name], seed) for name in names} if uneven else {}

    def score(self, name: str) -> Interval:
        """A model's score and its interval."""
        error = jackknife_error(self._left_out[name]) if self._left_out else None
        return percentile_interval(self._values[name], self._drawn[name], self._confidence, error)

    def difference(self, a: str, b: str) -> Interval:
        """score(a) − score(b) and its paired interval."""
        error = jackknife_error(self._left_out[a] - self._left_out[b]) if self._left_out else None
        value = self._values[a] - self._values[b]
        return percentile_interval(value, self._drawn[a] - self._drawn[b], self._confidence, error)


def score_interval(statistic: Statistic, *, samples: int, confidence: float, seed: int) -> Interval:
    """A model's score and its interval."""
    return Sampled({"a": statistic}, samples=samples, confidence=confidence, seed=seed).score("a")


def paired_difference(a: Statistic, b: Statistic, *, samples: int, confidence: float, seed: int) -> Interval:
    """score(a) − score(b) and its interval, both on the same resamples."""
    return Sampled({"a": a, "b": b}, samples=samples, confidence=confidence, seed=seed).difference("a", "b")


def task_seed(seed: int, split: str, task: str) -> int:
    """The bootstrap's seed for a task: the same for every pair of models, another for every task."""
    return zlib.crc32(f"{seed}/{split}/{task}".encode())
