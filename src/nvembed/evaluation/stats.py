"""How sure is a score, and how sure is a gain: the bootstrap, with the unit that fits the task.

What is resampled are the task's items: queries, test items, pairs, documents, within each subset of the task. Where the
metric is no mean over items it is computed anew on each resample (`measures`). Two models are compared on the same
resamples (paired), so what makes an item hard for both does not widen the interval.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nvembed.core.errors import UserError
from nvembed.evaluation.measures import Statistic, repeats_agree, strata_sizes

_CHUNK = 4_000_000
"""Counts (samples × items) held at once: 32 MB."""
JACKKNIFE_GROUPS = 500


@dataclass(frozen=True)
class Interval:
    """A value and the interval around it, in the unit of the metric."""

    mean: float
    low: float
    high: float


def observed(statistic: Statistic) -> float:
    """The score itself: every item counts once."""
    return float(statistic.value(np.ones((1, statistic.size)))[0])


def resamples(statistics: list[Statistic], samples: int, seed: int) -> np.ndarray:
    """Scores of several models on the same resamples of their common items, (models, samples)."""
    sizes = strata_sizes(statistics[0])
    if any(strata_sizes(statistic) != sizes for statistic in statistics):
        raise UserError("the evaluations to be compared hold different numbers of items; evaluate on the same sets")
    rows = [[statistic.value(counts) for statistic in statistics] for counts in _counts(sizes, samples, seed)]
    return np.concatenate(rows, axis=1)


def _counts(sizes: list[int], samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each item is drawn, (some samples, items); each stratum draws as many items as it has."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // sum(sizes))
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        blocks = []
        for size in sizes:
            drawn = rng.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
            blocks.append(np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64))
        yield blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


def left_out(statistic: Statistic, seed: int) -> np.ndarray:
    """Scores with a share of the items left out, each in turn: one item, or at most `JACKKNIFE_GROUPS` groups.

    A group takes its share of each stratum.
    """
    groups, rng = min(statistic.size, JACKKNIFE_GROUPS), np.random.default_rng(seed)
    ends = np.cumsum([0, *strata_sizes(statistic)])
    group = np.concatenate([rng.permutation(np.arange(a, b) % groups) for a, b in pairwise(ends)])
    step = max(1, _CHUNK // statistic.size)
    blocks = [np.arange(start, min(start + step, groups)) for start in range(0, groups, step)]
    return np.concatenate([statistic.value((group != block[:, None]).astype(np.float64)) for block in blocks])


def jackknife_error(values: np.ndarray) -> float:
    """The standard error from leave-out values (Tukey's jackknife)."""
    return float(np.sqrt((len(values) - 1) * np.var(values)))


def set_to_error(value: float, drawn: np.ndarray, error: float) -> np.ndarray:
    """Draws moved onto `value` and stretched to the standard error `error`.

    V-measure and F1 need that: repeated items agree with themselves, so resamples score otherwise than the sample they
    come from and differ less from each other than samples do. `error` is the jackknife's, which repeats nothing.
    """
    spread = float(drawn.std())
    return value + (drawn - drawn.mean()) * (error / spread if spread > 1e-12 else 1.0)


def percentile_interval(value: float, drawn: np.ndarray, confidence: float) -> Interval:
    """The percentile bootstrap interval (Efron)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


@dataclass(frozen=True)
class Draws:
    """A value and the values of its resamples: what an interval, a p-value or a mean over tasks is made of."""

    value: float
    drawn: np.ndarray

    def interval(self, confidence: float) -> Interval:
        """The percentile interval."""
        return percentile_interval(self.value, self.drawn, confidence)


class Sampled:
    """Several models on one task: resampled together, so that each score and each difference has its interval."""

    def __init__(self, statistics: Mapping[str, Statistic], *, samples: int, confidence: float, seed: int) -> None:
        names = list(statistics)
        self._confidence = confidence
        self._values = {name: observed(statistics[name]) for name in names}
        rows = resamples([statistics[name] for name in names], samples, seed)
        self._drawn = dict(zip(names, rows, strict=True))
        uneven = any(repeats_agree(statistic) for statistic in statistics.values())
        self._left_out = {name: left_out(statistics[name], seed) for name in names} if uneven else {}

    def score(self, name: str) -> Interval:
        """A model's score and its interval."""
        drawn = self._drawn[name]
        if self._left_out:
            drawn = set_to_error(self._values[name], drawn, jackknife_error(self._left_out[name]))
        return percentile_interval(self._values[name], drawn, self._confidence)

    def difference_draws(self, a: str, b: str) -> Draws:
        """score(a) − score(b), and the same on each resample."""
        value, drawn = self._values[a] - self._values[b], self._drawn[a] - self._drawn[b]
        if self._left_out:
            drawn = set_to_error(value, drawn, jackknife_error(self._left_out[a] - self._left_out[b]))
        return Draws(value, drawn)

    def difference(self, a: str, b: str) -> Interval:
        """score(a) − score(b) and its paired interval."""
        return self.difference_draws(a, b).interval(self._confidence)


def score_interval(statistic: Statistic, *, samples: int, confidence: float, seed: int) -> Interval:
    """A model's score and its interval."""
    return Sampled({"a": statistic}, samples=samples, confidence=confidence, seed=seed).score("a")


def paired_difference(a: Statistic, b: Statistic, *, samples: int, confidence: float, seed: int) -> Interval:
    """score(a) − score(b) and its interval, both on the same resamples."""
    return Sampled({"a": a, "b": b}, samples=samples, confidence=confidence, seed=seed).difference("a", "b")


def task_seed(seed: int, split: str, task: str) -> int:
    """The bootstrap's seed for a task: the same for every pair of models, another for every task."""
    return zlib.crc32(f"{seed}/{split}/{task}".encode())
