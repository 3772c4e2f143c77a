"""A difference between two variants over seeds and items: the interval that speaks of other seeds and other queries.

Every seed of both variants is scored on the same items, so seeds and items cross. The bootstrap resamples both, each
with replacement and independently (Owen 2007, The pigeonhole bootstrap), a seed of the variant together with the same
seed of the baseline. Three seeds are too few for its percentiles: they repeat so often that the spread comes out small.
So its draws are moved onto the difference and stretched, as those of v-measure are
(docs/decisions/v-measure-intervals.md), to the standard error from

    variance = through items (of the mean over seeds: jackknife) + through seeds (s² / S) − what both count,

and by Student's t over the normal quantile, at Welch and Satterthwaite's degrees of freedom: with seeds that agree it
is the interval over items, with seeds that do not it grows as few values demand. `tests/ablation/test_intervals.py`
holds its coverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nvembed.evaluation.stats import Statistic, jackknife_error, left_out, observed, percentile_interval, resamples


@dataclass(frozen=True)
class OverSeeds:
    """A difference: its mean over seeds, the interval, each seed's own, and the standard errors by their source."""

    mean: float
    low: float
    high: float
    seeds: list[float]
    error_items: float
    error_seeds: float
    freedom: float

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `not resolved` where the interval holds 0."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not resolved"


def over_seeds(
    variant: Sequence[Statistic], baseline: Sequence[Statistic], *, samples: int, confidence: float, seed: int
) -> OverSeeds:
    """variant − baseline over seeds and items.

    Args:
        variant, baseline: a task's score as a function of its items, one for each seed, the same seeds in both.
        samples: resamples of seeds and items.
        confidence: of the interval, for instance 0.95.
        seed: of the resampling.

    Raises:
        UserError: the statistics are over different numbers of items.
        ValueError: not two seeds or more of each.
    """
    count = len(variant)
    if count < 2 or len(baseline) != count:
        raise ValueError(f"{count} and {len(baseline)} seeds; give the same two or more of both")
    both = [*variant, *baseline]
    own = np.array([observed(a) - observed(b) for a, b in zip(variant, baseline, strict=True)])
    rows = resamples(both, samples, seed)
    chosen = np.random.default_rng([seed, 1]).multinomial(count, [1 / count] * count, size=samples)
    drawn = np.einsum("ns,sn->n", chosen / count, rows[:count] - rows[count:])
    without = np.stack([left_out(statistic, seed) for statistic in both])
    items, seeds, freedom = _variances(own, without[:count] - without[count:])
    error = float(np.sqrt(items + seeds))
    span = percentile_interval(float(own.mean()), drawn, confidence, error * _stretch(freedom, confidence))
    return OverSeeds(
        span.mean, span.low, span.high, own.tolist(), float(np.sqrt(items)), float(np.sqrt(seeds)), freedom
    )


def _variances(own: np.ndarray, without: np.ndarray) -> tuple[float, float, float]:
    """Variance of the mean difference through items and through seeds, and the degrees of freedom of their sum.

    `own` (seeds,) are the differences; `without` (seeds, groups) those with each group of items left out. What differs
    from seed to seed and from item to item at once is in both variances: its share is taken out of the seeds'.
    """
    count, groups = without.shape
    items = jackknife_error(without.mean(axis=0)) ** 2
    single = float(np.mean([jackknife_error(row) ** 2 for row in without]))
    crossed = max(single - items, 0.0) / (count - 1)  # (σ²/n)(1 − 1/S) over S − 1 is σ²/(nS)
    seeds = max(float(own.var(ddof=1)) / count - crossed, 0.0)
    total = items + seeds
    parts = seeds**2 / (count - 1) + items**2 / max(groups - 1, 1)
    return items, seeds, float(total**2 / parts) if parts > 0 else float(groups)


def _stretch(freedom: float, confidence: float) -> float:
    """Student's quantile over the normal one."""
    from scipy.stats import norm, t

    tail = (1 + confidence) / 2
    return float(t.ppf(tail, freedom) / norm.ppf(tail))
