"""A difference between two variants over seeds and items: the interval that speaks of other seeds and other queries.

Every seed of both variants is scored on the same items, so seeds and items cross. A bootstrap that resamples both (Owen
2007, The pigeonhole bootstrap) is sound for many seeds; of three it repeats so few that its percentiles are far too
narrow (docs/decisions/intervals-over-seeds.md). So the variance is put together from its parts,

    through items (of the mean over seeds: jackknife) + through seeds (s² / S) − what both count,

and the interval is Student's, at Welch and Satterthwaite's degrees of freedom: with seeds that agree it is the interval
over items, with seeds that do not it grows as few values demand. `tests/ablation/test_intervals.py` holds its coverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nvembed.core.errors import UserError
from nvembed.evaluation.measures import Statistic
from nvembed.evaluation.stats import jackknife_error, left_out, observed


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
    variant: Sequence[Statistic], baseline: Sequence[Statistic], *, confidence: float, seed: int
) -> OverSeeds:
    """variant − baseline over seeds and items.

    Args:
        variant, baseline: a task's score as a function of its items, one for each seed, the same seeds in both.
        confidence: of the interval, for instance 0.95.
        seed: groups the items that the jackknife leaves out together, where there are many.

    Raises:
        UserError: the statistics are over different numbers of items.
        ValueError: not two seeds or more of each.
    """
    from scipy.stats import t

    count = len(variant)
    if count < 2 or len(baseline) != count:
        raise ValueError(f"{count} and {len(baseline)} seeds; give the same two or more of both")
    if len({statistic.size for statistic in (*variant, *baseline)}) > 1:
        raise UserError("the evaluations to be compared hold different numbers of items; evaluate on the same sets")
    own = np.array([observed(a) - observed(b) for a, b in zip(variant, baseline, strict=True)])
    without = np.stack([left_out(a, seed) - left_out(b, seed) for a, b in zip(variant, baseline, strict=True)])
    items, seeds, freedom = _variances(own, without)
    mean, half = float(own.mean()), float(t.ppf((1 + confidence) / 2, freedom) * np.sqrt(items + seeds))
    return OverSeeds(
        mean, mean - half, mean + half, own.tolist(), float(np.sqrt(items)), float(np.sqrt(seeds)), freedom
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
