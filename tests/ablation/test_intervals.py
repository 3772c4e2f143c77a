"""The interval over seeds and items: its parts against closed forms, its coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from nvembed.ablation.intervals import OverSeeds, over_seeds
from nvembed.evaluation.measures import Mean, VMeasure
from nvembed.evaluation.stats import paired_difference

SETTINGS = {"confidence": 0.95, "seed": 1}


def judged(differences: np.ndarray) -> OverSeeds:
    """The interval of differences (seeds, items) from a baseline that scores 0."""
    zeros = np.zeros(differences.shape[1])
    return over_seeds([Mean(row) for row in differences], [Mean(zeros)] * len(differences), **SETTINGS)


def drawn(rng: np.random.Generator, seeds: int, items: int, *, of_seeds: float, of_both: float) -> np.ndarray:
    """Differences that are 0 in expectation, with effects of seeds (in standard errors of items), items and both."""
    through_seeds = rng.normal(0, of_seeds / np.sqrt(items), (seeds, 1))
    return through_seeds + rng.normal(0, 1, (1, items)) + rng.normal(0, of_both, (seeds, items))


def test_seeds_that_agree_leave_the_paired_interval_over_items() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(400), rng.random(400)
    ours = over_seeds([Mean(a)] * 3, [Mean(b)] * 3, **SETTINGS)
    theirs = paired_difference(Mean(a), Mean(b), samples=4000, confidence=0.95, seed=1)
    assert ours.mean == pytest.approx(theirs.mean)
    assert ours.error_seeds == 0
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * (theirs.high - theirs.low))


def test_both_errors_are_those_of_a_two_way_layout() -> None:
    """Items and seeds crossed without repeats: the variance components by their mean squares (Searle et al. 1992)."""
    seeds, items = 4, 80
    table = drawn(np.random.default_rng(5), seeds, items, of_seeds=20, of_both=0.5)
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    rest = table - rows[:, None] - columns[None] + table.mean()
    both = (rest**2).sum() / ((seeds - 1) * (items - 1))
    of_seeds = items * rows.var(ddof=1) - both  # items × the seeds' component
    ours = judged(table)
    assert ours.error_items**2 == pytest.approx(columns.var(ddof=1) / items)
    assert ours.error_seeds**2 == pytest.approx(of_seeds / items / seeds, rel=1e-6)
    assert ours.seeds == pytest.approx(rows.tolist())


def test_seeds_alone_give_students_interval() -> None:
    table = np.repeat(np.array([[0.1], [0.3], [0.35]]), 50, axis=1)
    ours = judged(table)
    half = scipy_stats.t.ppf(0.975, 2) * np.std([0.1, 0.3, 0.35], ddof=1) / np.sqrt(3)
    assert ours.freedom == pytest.approx(2)
    assert (ours.low, ours.high) == pytest.approx((0.25 - half, 0.25 + half))
    assert ours.verdict == "not resolved"


@pytest.mark.parametrize(("of_seeds", "of_both"), [(0, 0.3), (0, 3), (1, 1), (4, 1)])
def test_the_interval_covers_what_it_says(of_seeds: float, of_both: float) -> None:
    rng = np.random.default_rng(11)
    trials = [judged(drawn(rng, 3, 60, of_seeds=of_seeds, of_both=of_both)) for _ in range(200)]
    assert 0.9 <= np.mean([one.low <= 0 <= one.high for one in trials]) <= 0.99


def test_an_interval_over_items_alone_would_not_cover_where_seeds_differ() -> None:
    rng = np.random.default_rng(11)
    trials = [judged(drawn(rng, 3, 60, of_seeds=4, of_both=1)) for _ in range(200)]
    assert np.mean([abs(one.mean) <= 1.96 * one.error_items for one in trials]) < 0.75


def test_a_bootstrap_of_three_seeds_would_not_cover() -> None:
    """Why the interval is not the percentile one of a bootstrap that resamples seeds and items."""
    rng = np.random.default_rng(11)
    covered = []
    for _ in range(200):
        table = drawn(rng, 3, 60, of_seeds=4, of_both=1)
        seeds, items = rng.integers(0, 3, (400, 3)), rng.multinomial(60, [1 / 60] * 60, size=400) / 60
        low, high = np.quantile((table[seeds].mean(axis=1) * items).sum(axis=1), [0.025, 0.975])
        covered.append(low <= 0 <= high)
    assert np.mean(covered) < 0.88


def test_clusterings_have_an_interval_too() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, 90)

    def clustering(errors: float) -> VMeasure:
        clusters = np.where(rng.random(90) < errors, rng.integers(0, 4, 90), labels)
        return VMeasure(labels, clusters[None], np.ones((1, 90), dtype=int))

    ours = over_seeds([clustering(0.1) for _ in "ab"], [clustering(0.7) for _ in "ab"], **SETTINGS)
    assert ours.verdict == "better" and 0 < ours.low < ours.mean < ours.high


def test_the_verdict_says_on_which_side_of_0_the_interval_lies() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.1, (3, 200))
    assert [judged(noise + shift).verdict for shift in (0.2, -0.2, 0.0)] == ["better", "worse", "not resolved"]


def test_one_seed_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two or more"):
        judged(np.zeros((1, 5)))
