"""The bootstrap: equal to scipy's on the same differences, to closed forms where there are any, and quick."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import v_measure_score

from nvembed.core.errors import UserError
from nvembed.evaluation.measures import Mean, VMeasure
from nvembed.evaluation.stats import observed, paired_difference, resamples, score_interval, task_seed


def some_scores(count: int = 300, gain: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    base = rng.beta(0.5, 0.5, count)
    return np.clip(base + rng.normal(gain, 0.2, count), 0, 1), base


def test_the_paired_interval_is_scipys_percentile_interval_of_the_differences() -> None:
    a, b = some_scores()
    ours = paired_difference(Mean(a), Mean(b), samples=4000, confidence=0.95, seed=3)
    theirs = scipy_stats.bootstrap(
        (a - b,), np.mean, n_resamples=4000, confidence_level=0.95, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert ours.mean == pytest.approx((a - b).mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_interval_of_a_mean_has_the_width_of_the_normal_theory() -> None:
    a, _ = some_scores(2000)
    ours = score_interval(Mean(a), samples=5000, confidence=0.9, seed=1)
    half = 1.6449 * a.std() / np.sqrt(len(a))
    assert (ours.low, ours.high) == pytest.approx((a.mean() - half, a.mean() + half), abs=0.05 * half)


def test_equal_models_differ_by_exactly_nothing() -> None:
    a, _ = some_scores()
    ours = paired_difference(Mean(a), Mean(a.copy()), samples=500, confidence=0.95, seed=1)
    assert (ours.mean, ours.low, ours.high) == (0.0, 0.0, 0.0)


def test_pairing_is_narrower_than_two_intervals_apart() -> None:
    a, b = some_scores()
    paired = paired_difference(Mean(a), Mean(b), samples=1000, confidence=0.95, seed=1)
    alone = [score_interval(Mean(x), samples=1000, confidence=0.95, seed=1) for x in (a, b)]
    assert paired.high - paired.low < 0.7 * max(one.high - one.low for one in alone)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    a, b = some_scores()
    first, again, other = (paired_difference(Mean(a), Mean(b), samples=300, confidence=0.95, seed=s) for s in (5, 5, 6))
    assert first == again != other
    assert task_seed(17, "test", "retrieval") != task_seed(17, "test", "clustering")


def some_clusterings(documents: int, classes: int, errors: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, documents)
    assignments = np.stack([np.where(rng.random(documents) < errors, rng.integers(0, classes, documents), labels)] * 3)
    draws = rng.poisson(4, (3, documents))
    return labels, np.where(draws > 0, assignments, -1), draws


def test_v_measure_is_sklearns_on_every_resample() -> None:
    labels, assignments, draws = some_clusterings(80, 5, 0.4)
    statistic = VMeasure(labels, assignments, draws)
    counts = np.random.default_rng(2).multinomial(80, [1 / 80] * 80, size=20).astype(float)
    expected = [
        np.mean(
            [
                v_measure_score(np.repeat(labels, times), np.repeat(clusters, times))
                for clusters, times in zip(assignments, (draws * row).astype(int), strict=True)
            ]
        )
        for row in counts
    ]
    np.testing.assert_allclose(statistic.value(counts), expected, atol=1e-12)


def test_v_measure_knows_its_ends() -> None:
    labels = np.array([0, 0, 1, 1])
    once = np.ones((1, 4), dtype=int)
    assert observed(VMeasure(labels, labels[None] + 3, once)) == pytest.approx(1)
    assert observed(VMeasure(labels, np.zeros((1, 4), dtype=int), once)) == pytest.approx(0)
    assert observed(VMeasure(labels, np.array([[0, 1, 0, 1]]), once)) == pytest.approx(0)


def test_the_interval_of_a_v_measure_holds_the_score_itself() -> None:
    # with many small clusters every plain resample scores higher than the sample: without centring this fails
    labels, assignments, draws = some_clusterings(300, 40, 0.5)
    statistic = VMeasure(labels, assignments, draws)
    assert np.quantile(resamples([statistic], 500, 1)[0], 0.025) > observed(statistic)
    interval = score_interval(statistic, samples=500, confidence=0.95, seed=1)
    assert interval.low < interval.mean < interval.high
    assert interval.high - interval.low < 0.15


def test_the_stated_share_of_intervals_holds_the_expected_gain_in_v_measure() -> None:
    # 100 samples of 150 documents each from one population: a plain percentile interval holds it 84 times in 100
    rng = np.random.default_rng(8)

    def sample() -> tuple[VMeasure, VMeasure]:
        labels, hard = rng.integers(0, 15, 150), rng.random(150)
        a, b = (
            np.where(hard + rng.normal(0, 0.03, 150) < errors, rng.integers(0, 15, 150), labels)
            for errors in (0.4, 0.45)
        )
        once = np.ones((1, 150), dtype=int)
        return VMeasure(labels, a[None], once), VMeasure(labels, b[None], once)

    expected = np.mean([observed(a) - observed(b) for a, b in (sample() for _ in range(400))])
    held = 0
    for trial in range(100):
        interval = paired_difference(*sample(), samples=200, confidence=0.95, seed=trial)
        held += interval.low <= expected <= interval.high
    assert 90 <= held <= 99


def test_two_thousand_resamples_of_clusterings_take_seconds() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 40, 800)
    a, b = (VMeasure(labels, rng.integers(0, 40, (10, 800)), rng.poisson(4, (10, 800)) + 1) for _ in range(2))
    started = time.process_time()
    paired_difference(a, b, samples=2000, confidence=0.95, seed=0)
    assert time.process_time() - started < 10


def test_evaluations_of_different_length_are_refused() -> None:
    with pytest.raises(UserError, match="different numbers of items"):
        paired_difference(Mean(np.ones(3)), Mean(np.ones(4)), samples=10, confidence=0.95, seed=0)
