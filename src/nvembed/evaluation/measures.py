"""A task's score as a function of how often each item counts: what the bootstrap computes anew on each resample.

Where the metric is a mean over items (nDCG of queries, accuracy of texts) the items' own scores are averaged. The
others have no score of an item, and are computed anew: v-measure from stored assignments, average precision and rank
correlation from stored similarities, F1 from stored predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from scipy import sparse


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


class MeanOverRuns:
    """The mean over runs of the accuracy in each, where an item has no part in every run (cross-validation).

    Args:
        correct: (items, runs) 1 right, 0 wrong. part: (items, runs) whether the item was tested in the run.
    """

    def __init__(self, correct: np.ndarray, part: np.ndarray) -> None:
        self._part = part.astype(np.float64)
        self._correct = correct * self._part
        self.size = len(correct)

    def value(self, counts: np.ndarray) -> np.ndarray:
        """Weighted accuracy of each run, averaged; a run that a resample leaves empty does not count."""
        tested = counts @ self._part
        accuracy = np.divide(counts @ self._correct, tested, out=np.full_like(tested, np.nan), where=tested > 0)
        return np.asarray(np.nanmean(accuracy, axis=1))


class VMeasure:
    """The mean v-measure (Rosenberg and Hirschberg 2007) of several clusterings of the same documents.

    Args:
        labels: (documents,) the true classes, or (clusterings, documents) where each clustering has its own.
        assignments: (clusterings, documents) the cluster of each document, -1 where it was not drawn.
        draws: (clusterings, documents) how often it was drawn.
    """

    def __init__(self, labels: np.ndarray, assignments: np.ndarray, draws: np.ndarray) -> None:
        assignments, draws = np.atleast_2d(assignments), np.atleast_2d(draws)
        labels = np.broadcast_to(np.asarray(labels), assignments.shape)
        self.size = assignments.shape[1]
        rows = zip(labels, assignments, draws, strict=True)
        self._tables = [self._table(label, row, times) for label, row, times in rows if times.any()]

    @staticmethod
    def _table(labels: np.ndarray, clusters: np.ndarray, draws: np.ndarray) -> tuple[Any, Any, Any]:
        """Which cell of (label, cluster) a document counts in, and which label and cluster a cell belongs to."""
        drawn = np.flatnonzero((clusters >= 0) & (draws > 0))
        label, cluster = (np.unique(values[drawn], return_inverse=True)[1] for values in (labels, clusters))
        cells, cell = np.unique(label * (cluster.max() + 1) + cluster, return_inverse=True)
        weights = draws[drawn].astype(np.float64)
        documents = sparse.csr_array((weights, (cell, drawn)), shape=(len(cells), len(clusters)))
        ones, places = np.ones(len(cells)), np.arange(len(cells))
        by_label = sparse.csr_array((ones, (cells // (cluster.max() + 1), places)))
        by_cluster = sparse.csr_array((ones, (cells % (cluster.max() + 1), places)))
        return documents, by_label, by_cluster

    def value(self, counts: np.ndarray) -> np.ndarray:
        """V-measure = 2 I(label; cluster) / (H(label) + H(cluster)), 1 where both entropies are 0."""
        total, by_document = np.zeros(len(counts)), np.ascontiguousarray(counts.T)
        for documents, labels, clusters in self._tables:
            cells = documents @ by_document
            by_label, by_cluster, joint = (_entropy(sums) for sums in (labels @ cells, clusters @ cells, cells))
            both = by_label + by_cluster
            information = np.maximum(both - joint, 0.0)
            total += np.divide(2 * information, both, out=np.ones_like(both), where=both > 1e-12)
        return total / len(self._tables)


def _entropy(sums: np.ndarray) -> np.ndarray:
    """Entropy in nats of the shares in each column: (groups, samples) → (samples,)."""
    total = np.maximum(sums.sum(axis=0), 1e-300)
    logs = np.log(sums, out=np.zeros_like(sums), where=sums > 0)
    return np.where(total > 1e-300, np.log(total) - (sums * logs).sum(axis=0) / total, 0.0)


class AveragePrecision:
    """Average precision of pairs ranked by their similarity; equal similarities share a threshold, as sklearn's do.

    Args:
        labels: (pairs,) 1 where the pair belongs together. values: (pairs,) similarities, larger is closer.
    """

    def __init__(self, labels: np.ndarray, values: np.ndarray) -> None:
        self.size = len(values)
        self._order = np.argsort(-values, kind="stable")
        self._positive = np.asarray(labels, dtype=np.float64)[self._order]
        self._starts = np.flatnonzero(np.diff(values[self._order], prepend=np.inf))
        self._hits = np.flatnonzero(self._positive)

    def _cumulative(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ranked = counts[:, self._order]
        seen = np.cumsum(np.add.reduceat(ranked, self._starts, axis=1), axis=1)
        hits = np.cumsum(np.add.reduceat(ranked * self._positive, self._starts, axis=1), axis=1)
        return seen, hits

    def value(self, counts: np.ndarray) -> np.ndarray:
        """Σ precision × gain in recall over the thresholds; 0 for a resample without a pair that belongs together."""
        if len(self._starts) == self.size:  # no ties: only thresholds at pairs that belong together gain recall
            ranked = counts[:, self._order]
            seen, gained = np.cumsum(ranked, axis=1)[:, self._hits], ranked[:, self._hits]
            hits = np.cumsum(gained, axis=1)
            precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
            return np.asarray((gained * precision).sum(axis=1) / np.maximum(gained.sum(axis=1), 1.0))
        seen, hits = self._cumulative(counts)
        gained = np.diff(hits, axis=1, prepend=0.0)
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        return np.asarray((gained * precision).sum(axis=1) / np.maximum(hits[:, -1], 1.0))


class BestAccuracy(AveragePrecision):
    """Accuracy of pairs at the threshold that suits them best."""

    def value(self, counts: np.ndarray) -> np.ndarray:
        """The largest share of pairs on the right side of a threshold that has pairs on both sides, as mteb looks."""
        seen, hits = self._cumulative(counts)
        total, positive = seen[:, -1:], hits[:, -1:]
        return np.asarray(((2 * hits - seen + total - positive) / total)[:, : max(seen.shape[1] - 1, 1)].max(axis=1))


class Spearman:
    """Spearman's rank correlation of two values of each pair; ties share their mean rank.

    Args:
        gold, values: (pairs,) what people said, what the model says.
    """

    def __init__(self, gold: np.ndarray, values: np.ndarray) -> None:
        self.size = len(values)
        self._orders = [self._groups(np.asarray(one)) for one in (gold, values)]

    @staticmethod
    def _groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
        return order, starts, np.unique(values, return_inverse=True)[1]

    def value(self, counts: np.ndarray) -> np.ndarray:
        """The correlation among the pairs, each as often as it counts; 0 where one side does not vary."""
        middle = (counts.sum(axis=1, keepdims=True) + 1) / 2
        ranks = []
        for order, starts, group in self._orders:
            sums = np.add.reduceat(counts[:, order], starts, axis=1)
            ranks.append((np.cumsum(sums, axis=1) - (sums - 1) / 2)[:, group] - middle)
        together, *alone = (np.einsum("ij,ij,ij->i", counts, ranks[a], ranks[b]) for a, b in ((0, 1), (0, 0), (1, 1)))
        spread = np.sqrt(alone[0] * alone[1])
        return np.asarray(np.divide(together, spread, out=np.zeros_like(spread), where=spread > 0))


class F1:
    """F1 over classes, averaged over runs (of few-shot classifiers; one run where there is no training).

    Args:
        truth: (items, classes) 0/1, sparse. found: the same for each run.
        weighted: classes count by their number of true items, else equally.
        absent: whether a class with neither true nor found items counts as 0 (labels of a multilabel task do).
    """

    def __init__(self, truth: Any, found: Sequence[Any], *, weighted: bool, absent: bool = False) -> None:
        self.size = truth.shape[0]
        self._truth = truth.T.tocsr()
        self._found = [(one.T.tocsr(), (one * truth).T.tocsr()) for one in found]
        self._weighted, self._absent = weighted, absent

    def value(self, counts: np.ndarray) -> np.ndarray:
        """The average of 2 hits / (true + found) over classes, and of that over runs."""
        by_item = np.ascontiguousarray(counts.T)
        true = self._truth @ by_item
        total = np.zeros(len(counts))
        for found, hits in self._found:
            both = true + found @ by_item
            f1 = np.divide(2 * (hits @ by_item), both, out=np.zeros_like(both), where=both > 0)
            share = true if self._weighted else np.ones_like(both) if self._absent else (both > 0).astype(np.float64)
            total += (f1 * share).sum(axis=0) / share.sum(axis=0)
        return total / len(self._found)


class Strata:
    """The mean of statistics over separate items: subsets of a task, sets of documents. Each is resampled by itself.

    Attributes:
        sizes: how many items each part has; `counts` hold them in this order.
    """

    def __init__(self, parts: Sequence[Statistic], weights: Sequence[float] | None = None) -> None:
        self.parts = list(parts)
        self._weights = list(weights or [1 / len(self.parts)] * len(self.parts))
        self.sizes = [part.size for part in self.parts]
        self.size = sum(self.sizes)

    def value(self, counts: np.ndarray) -> np.ndarray:
        """The weighted mean of the parts' scores."""
        ends = np.cumsum([0, *self.sizes])
        slices = zip(self.parts, self._weights, ends[:-1], ends[1:], strict=True)
        return np.asarray(sum(weight * part.value(counts[:, a:b]) for part, weight, a, b in slices))


def strata_sizes(statistic: Statistic) -> list[int]:
    """How many items are resampled among themselves, one number for each stratum."""
    return statistic.sizes if isinstance(statistic, Strata) else [statistic.size]


def repeats_agree(statistic: Statistic) -> bool:
    """Whether an item that is drawn twice agrees with itself, so that resamples are no fair picture of samples."""
    if isinstance(statistic, Strata):
        return any(repeats_agree(part) for part in statistic.parts)
    return isinstance(statistic, VMeasure | F1)
