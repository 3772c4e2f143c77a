"""Each metric as a function of counts is what scikit-learn, scipy or mteb computes on the items written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import average_precision_score, f1_score, v_measure_score

from nvembed.core.errors import UserError
from nvembed.evaluation.items import Items
from nvembed.evaluation.measures import AveragePrecision, BestAccuracy, Mean, Spearman, Strata
from nvembed.evaluation.predictions import class_items, cluster_items, cluster_set_items, pair_items
from nvembed.evaluation.rankings import query_scores, ranking_items
from nvembed.evaluation.statistic import refuse_unscored, statistic_of
from nvembed.evaluation.stats import left_out, observed, paired_difference, resamples, score_interval
from nvembed.evaluation.watching import Rankings

PAIRS = 60
Metric = Callable[[np.ndarray], float]


def some_counts(size: int, seed: int = 4, samples: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).multinomial(size, [1 / size] * size, size=samples)


def equals_on_resamples(statistic: Any, expected: Metric) -> None:
    """`expected` gets the rows of a resample, each as often as it was drawn."""
    counts = some_counts(statistic.size)
    theirs = [expected(np.repeat(np.arange(statistic.size), row)) for row in counts]
    np.testing.assert_allclose(statistic.value(counts.astype(float)), theirs, atol=1e-12)
    assert np.ptp(theirs) > 0.01


def some_pairs(seed: int = 0, size: int = PAIRS) -> tuple[np.ndarray, np.ndarray]:
    """Labels and similarities, some of them equal."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size)
    return labels, np.round(labels * 0.4 + rng.normal(0, 0.5, size), 1)


@pytest.mark.parametrize("ties", [True, False])
def test_average_precision_is_sklearns(ties: bool) -> None:
    labels, values = some_pairs()
    values = values if ties else values + np.random.default_rng(1).random(PAIRS) / 1000
    assert (len(set(values)) < PAIRS) == ties
    equals_on_resamples(
        AveragePrecision(labels, values), lambda rows: average_precision_score(labels[rows], values[rows])
    )


def test_best_accuracy_is_the_best_of_all_thresholds() -> None:
    labels, values = some_pairs()

    def best(rows: np.ndarray) -> float:
        thresholds = np.unique(values[rows])[1:]  # some pairs on each side
        return float(max(((values[rows] >= t) == labels[rows]).mean() for t in thresholds))

    equals_on_resamples(BestAccuracy(labels, values), best)


def test_rank_correlation_is_scipys() -> None:
    gold, values = np.round(np.random.default_rng(1).normal(size=(2, PAIRS)).cumsum(axis=0), 1)
    equals_on_resamples(
        Spearman(gold, values), lambda rows: float(scipy_stats.spearmanr(gold[rows], values[rows]).statistic)
    )


def some_classes(runs: int = 3, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    true = rng.integers(0, classes, PAIRS)
    return true, np.where(rng.random((runs, PAIRS)) < 0.5, true, rng.integers(0, classes, (runs, PAIRS)))


@pytest.mark.parametrize(("metric", "average"), [("f1", "macro"), ("f1_weighted", "weighted")])
def test_f1_is_sklearns_in_each_run(metric: str, average: str) -> None:
    true, found = some_classes()
    items = class_items("default", true.tolist(), found.tolist(), None)
    equals_on_resamples(
        statistic_of("Classification", items, metric),
        lambda rows: float(np.mean([f1_score(true[rows], one[rows], average=average) for one in found])),
    )


def test_f1_of_translations_weighs_each_sentence() -> None:
    true, (found, *_) = some_classes(classes=PAIRS)
    rows = [{"target": int(a), "predictions": [int(b)], "item": str(n)} for n, (a, b) in enumerate(zip(true, found))]  # noqa: B905
    equals_on_resamples(
        statistic_of("BitextMining", rows, "f1"),
        lambda kept: float(f1_score(true[kept], found[kept], average="weighted", zero_division=0)),
    )


def test_f1_of_several_labels_counts_labels_nobody_has() -> None:
    rng = np.random.default_rng(5)
    true, found = rng.integers(0, 2, (PAIRS, 5)), rng.integers(0, 2, (2, PAIRS, 5))
    true[:, 4] = found[:, :, 4] = 0
    rows = [
        {"item": str(n), "targets": true[n].tolist(), "predictions": found[:, n].ravel().tolist()} for n in range(PAIRS)
    ]
    equals_on_resamples(
        statistic_of("MultilabelClassification", rows, "f1"),
        lambda kept: float(np.mean([f1_score(true[kept], f[kept], average="macro", zero_division=0) for f in found])),
    )


def test_cross_validation_averages_over_folds_of_unequal_size() -> None:
    true = np.arange(7) % 2
    folds = [np.array([0, 1, 2]), np.array([3, 4]), np.array([5, 6])]
    found = [[0, 1, 1], [1, 1], [1, 1]]
    items = class_items("default", true.tolist(), found, folds)
    expected = np.mean([np.mean(true[rows] == one) for rows, one in zip(folds, found, strict=True)])
    assert observed(statistic_of("Classification", items, "accuracy")) == pytest.approx(expected)
    assert np.mean([row["score"] for row in items]) != pytest.approx(expected)


def test_a_hierarchy_is_clustered_level_by_level_among_documents_that_reach_it() -> None:
    labels = [[0, 5], [0, 6], [1], [1, 5], [0, 6]]
    reached = [0, 1, 3, 4]
    levels = [[[0, 0, 1, 1, 1]], [[0, 1, 1, 0]]]
    drawn = [[0, 1, 2, 3, 4], [0, 1, 2, 3]]
    items = cluster_items("default", labels, levels, drawn)
    expected = [
        v_measure_score([label[0] for label in labels], levels[0][0]),
        v_measure_score([labels[row][1] for row in reached], levels[1][0]),
    ]
    assert observed(statistic_of("Clustering", items)) == pytest.approx(np.mean(expected))
    assert expected[0] > expected[1]


def test_sets_clustered_apart_are_averaged_and_a_set_of_one_label_is_perfect() -> None:
    rng = np.random.default_rng(3)
    sets = [rng.integers(0, 3, 30).tolist(), [1] * 4, rng.integers(0, 3, 50).tolist()]
    clusters = [np.where(rng.random(len(one)) < 0.7, one, 0).tolist() for one in (sets[0], sets[2])]
    items = cluster_set_items("default", sets, clusters)
    expected = np.mean([v_measure_score(sets[0], clusters[0]), 1, v_measure_score(sets[2], clusters[1])])
    statistic = statistic_of("Clustering", items)
    assert observed(statistic) == pytest.approx(expected)
    assert isinstance(statistic, Strata) and statistic.sizes == [30, 4, 50]
    assert np.isfinite(left_out(statistic, 0)).all()


def test_of_several_similarities_the_one_that_scores_best_is_kept() -> None:
    labels, values = some_pairs()
    noise = np.random.default_rng(9).normal(size=PAIRS).tolist()
    names = ("similarity_scores", "cosine_scores", "euclidean_distances", "dot_scores")
    found = {**dict.fromkeys(names, noise), "manhattan_distances": (-values).tolist()}
    items = pair_items("default", labels.tolist(), found, "max_ap")
    assert observed(statistic_of("PairClassification", items, "max_ap")) == pytest.approx(
        average_precision_score(labels, values)
    )


def some_rankings(queries: list[str], documents: int = 30) -> Rankings:
    """Rankings with ties, graded judgements, and trec_eval's scores of them."""
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

    rng = np.random.default_rng(6)
    names = [f"d{n}" for n in range(documents)]
    results = {q: {d: float(np.round(rng.random(), 1)) for d in rng.permutation(names)[:20]} for q in queries}
    qrels = {
        q: {str(d): int(grade) for d, grade in zip(names, rng.integers(0, 3, documents), strict=True)} for q in queries
    }
    whole = {q: qrels[f"{q.rpartition('_')[0]}_q1"] if "_" in q else qrels[q] for q in queries}
    scores = calculate_retrieval_scores(results, whole, (1, 5, 10, 20)).all_scores
    return Rankings(scores, whole, results)


@pytest.mark.parametrize(
    "metric", ["ndcg_at_10", "map_at_5", "recall_at_20", "precision_at_1", "mrr_at_10", "hit_rate_at_5", "accuracy"]
)
def test_a_querys_share_of_each_metric_averages_to_mtebs(metric: str) -> None:
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores, make_score_dict

    told = some_rankings([f"q{n}" for n in range(25)])
    found = calculate_retrieval_scores(told.results, told.qrels, (1, 5, 10, 20))
    names = ("ndcg", "recall", "precision", "mrr", "naucs", "naucs_mrr", "hit_rate")
    theirs = make_score_dict(_map=found.map, task_scores={}, **{name: getattr(found, name) for name in names})
    ours = query_scores(told, metric)
    assert len(ours) == 25
    assert np.mean(list(ours.values())) == pytest.approx(theirs[metric], abs=1e-5)


def test_metrics_of_groups_of_queries_are_mtebs() -> None:
    from mteb._evaluators import retrieval_metrics as mtebs

    told = some_rankings([f"{n}_q{part}" for n in range(12) for part in (1, 2)])
    theirs = {
        "robustness_at_10": mtebs.robustness_at_10(told.qrels, told.results, told.scores),
        "paired_accuracy": mtebs.paired_accuracy(told.qrels, told.results, told.scores),
        **mtebs.max_over_subqueries(told.qrels, told.results, (1, 5, 10, 20)),
    }
    for metric in ("robustness_at_10", "paired_accuracy", "max_over_subqueries_map_at_20"):
        ours = query_scores(told, metric)
        assert len(ours) == 12
        assert np.mean(list(ours.values())) == pytest.approx(theirs[metric], abs=1e-5), metric


def test_p_mrr_is_mtebs() -> None:
    from mteb._evaluators.retrieval_metrics import calculate_pmrr

    told = some_rankings([f"{n}-{end}" for n in range(10) for end in ("og", "changed")])
    changed = {str(n): [f"d{n}", f"d{n + 1}", f"d{n + 7}"] for n in range(10)}
    halves = [{q: r for q, r in told.results.items() if q.endswith(end)} for end in ("og", "changed")]
    ours = query_scores(Rankings(told.scores, told.qrels, told.results, changed), "p-MRR")
    assert np.mean(list(ours.values())) == pytest.approx(calculate_pmrr(*halves, changed))


def test_a_ranking_keeps_what_the_report_shows() -> None:
    from datasets import Dataset

    told = some_rankings(["q2", "q1"])
    corpus = Dataset.from_dict(
        {"id": [f"d{n}" for n in range(30)], "text": ["t"] * 30, "title": [f"T{n}" for n in range(30)]}
    )
    queries = Dataset.from_dict({"id": ["q1", "q2"], "text": ["one", "two"]})
    first, second = ranking_items("default", told, queries, corpus, "ndcg_at_10")
    assert (first["item"], first["text"], second["item"]) == ("q1", "one", "q2")
    best = max(told.results["q1"].items(), key=lambda hit: (hit[1], hit[0]))[0]
    assert first["top"][0] == best and first["top_text"] == f"T{best[1:]} t"
    skipped, _ = ranking_items("default", told, queries, corpus, "ndcg_at_10", skip_first=True)
    assert skipped["top"][0] == first["top"][1]


@pytest.mark.parametrize("kind", ["ap", "spearman"])
def test_the_interval_of_a_recomputed_metric_is_scipys_paired_bootstrap(kind: str) -> None:
    labels, a = some_pairs(0, 200)
    b = np.round(a + np.random.default_rng(8).normal(0, 0.3, 200), 1)
    make: Any = AveragePrecision if kind == "ap" else Spearman

    def difference(target: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
        if kind == "ap":
            return float(average_precision_score(target, one) - average_precision_score(target, other))
        return float(scipy_stats.spearmanr(target, one).statistic - scipy_stats.spearmanr(target, other).statistic)

    ours = paired_difference(make(labels, a), make(labels, b), samples=500, confidence=0.9, seed=3)
    theirs = scipy_stats.bootstrap(
        (labels, a, b), difference, n_resamples=500, confidence_level=0.9, method="percentile", paired=True,
        vectorized=False, rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_subsets_are_resampled_apart_and_count_alike() -> None:
    rng = np.random.default_rng(0)
    easy, hard = rng.normal(0.9, 0.01, 20), rng.normal(0.1, 0.01, 200)
    rows = [{"subset": "a", "item": str(n), "score": s} for n, s in enumerate(easy)]
    rows += [{"subset": "b", "item": str(n), "score": s} for n, s in enumerate(hard)]
    statistic = statistic_of("Retrieval", rows)
    assert observed(statistic) == pytest.approx((easy.mean() + hard.mean()) / 2)
    drawn = resamples([statistic], 1000, 1)[0]
    expected = np.sqrt(easy.var() / 20 + hard.var() / 200) / 2
    assert drawn.std() == pytest.approx(expected, rel=0.1)  # without strata the shares of easy and hard would vary too
    wide = score_interval(Mean(np.concatenate([easy, hard])), samples=1000, confidence=0.95, seed=1)
    assert wide.high - wide.low > 10 * drawn.std()


def test_items_of_a_subset_that_do_not_stand_together_are_refused() -> None:
    rows = [{"subset": name, "item": str(n), "score": 1.0} for n, name in enumerate("aba")]
    with pytest.raises(ValueError, match="do not stand together"):
        statistic_of("Retrieval", rows)


def test_items_can_be_read_as_rows_and_as_columns() -> None:
    items = Items.of(
        [{"item": "a", "score": 0.5, "predictions": [1, 2]}, {"item": "b", "score": 1.0, "predictions": [3, 4]}]
    )
    assert [row["item"] for row in items] == ["a", "b"] and items[1]["score"] == items[-1]["score"] == 1.0
    assert items.column("predictions").tolist() == [[1, 2], [3, 4]]
    assert items[:1] == Items.of([items[0]]) and items != items[:1]
    assert not items.has("rank") and items[0]["rank"] is None


@pytest.mark.parametrize(
    ("kind", "metric"),
    [("Clustering", "ami"), ("STS", "alpha_auc"), ("Regression", "kendalltau"), ("BitextMining", "x")],
)
def test_a_metric_without_items_is_refused(kind: str, metric: str) -> None:
    with pytest.raises(UserError, match=r"MyTask: .*not scored item by item.*leave the task out"):
        refuse_unscored("MyTask", kind, metric)
