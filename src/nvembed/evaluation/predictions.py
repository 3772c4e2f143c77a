"""From what mteb predicts to the items of a task, one reader a type.

mteb hands out a query's ranking, a test item's class in each experiment, a document's cluster in each clustering, a
pair's similarities. What it does not hand out is watched (`watching`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nvembed.evaluation.items import Items
from nvembed.evaluation.statistic import statistic_of

PAIR_MEASURES = {
    "similarity": ("similarity_scores", 1),
    "cosine": ("cosine_scores", 1),
    "manhattan": ("manhattan_distances", -1),
    "euclidean": ("euclidean_distances", -1),
    "dot": ("dot_scores", 1),
}
"""mteb's names of a pair's similarities, and the sign that makes the larger the closer."""


def labelled(values: Iterable[Any], *more: Iterable[Any]) -> list[np.ndarray]:
    """Labels of any kind as numbers, the same numbers in every sequence given."""
    everything = [[str(value) for value in one] for one in (values, *more)]
    number = {name: index for index, name in enumerate(sorted({name for one in everything for name in one}))}
    return [np.array([number[name] for name in one], dtype=np.int64) for one in everything]


def class_items(subset: str, targets: Sequence[Any], predictions: Sequence[Sequence[Any]], folds: Any) -> Items:
    """Texts with their class in each experiment. `folds`: the rows that each was tested on, if not all."""
    count, runs = len(targets), len(predictions)
    true, *found = labelled(targets, *predictions)
    if all(isinstance(label, int | np.integer) for label in targets):  # numbers stay what they are
        true, found = np.array(targets), [np.array(one).astype(int) for one in predictions]
    table = np.full((count, runs), -1)
    for run, values in enumerate(found):
        table[slice(None) if folds is None else folds[run], run] = values
    correct = (table == true[:, None]).sum(axis=1) / (table >= 0).sum(axis=1)
    return Items.of_columns(
        count, subset=subset, item=numbers(count), score=correct, target=true, predictions=table.tolist()
    )


def multilabel_items(subset: str, experiments: Sequence[tuple[np.ndarray, np.ndarray]], metric: str) -> Items:
    """Texts with several labels each: (true, found) 0/1 matrices of each experiment."""
    truth = np.asarray(experiments[0][0])
    found = np.stack([np.asarray(predicted) for _, predicted in experiments], axis=1)
    count = len(truth)
    columns: dict[str, Any] = {"score": (found == truth[:, None]).all(axis=2).mean(axis=1)}
    if metric == "f1":
        columns |= {"targets": truth.tolist(), "predictions": found.reshape(count, -1).astype(int).tolist()}
    return Items.of_columns(count, subset=subset, item=numbers(count), **columns)


def cluster_items(
    subset: str, labels: Sequence[Any], levels: Sequence[Sequence[Sequence[int]]], drawn: Sequence[Sequence[int]]
) -> Items:
    """Documents with their cluster in each clustering.

    Args:
        labels: of each document, a list of them where there is a hierarchy.
        levels: the clusters of each clustering, for each level of the hierarchy.
        drawn: the documents of each clustering, of all levels in turn, counted among those that have the level.
    """
    paths = [label if isinstance(label, list) else [label] for label in labels]
    count, runs = len(paths), [clusters for level in levels for clusters in level]
    assignments, draws = np.full((len(runs), count), -1), np.zeros((len(runs), count), dtype=int)
    targets = np.zeros((len(levels), count), dtype=int)
    run = 0
    for depth, level in enumerate(levels):
        names = np.array([path[depth] if len(path) > depth else -1 for path in paths])
        reached = np.flatnonzero([name != -1 for name in names])
        targets[depth] = np.unique(names, return_inverse=True)[1]
        for clusters in level:
            documents = reached[np.array(drawn[run])]
            assignments[run, documents] = clusters
            draws[run] = np.bincount(documents, minlength=count)
            run += 1
    if len(levels) == 1 and all(isinstance(path[0], int) for path in paths):  # numbers stay what they are
        targets[0] = [path[0] for path in paths]
    truth = {"target": targets[0]} if len(levels) == 1 else {"targets": targets.T.tolist()}
    return Items.of_columns(
        count,
        subset=subset,
        item=numbers(count),
        predictions=assignments.T.tolist(),
        draws=draws.T.tolist(),
        **truth,
    )


def cluster_set_items(subset: str, sets: Sequence[Sequence[Any]], clusterings: Sequence[Sequence[int]]) -> Items:
    """Documents of separate sets, each clustered once. mteb leaves out a set with one label: it counts as perfect."""
    waiting, parts = iter(clusterings), []
    for group, labels in enumerate(sets):
        clusters = next(waiting) if len(set(labels)) > 1 else [0] * len(labels)
        parts.append(
            Items.of_columns(
                len(labels),
                subset=subset,
                group=[group] * len(labels),
                item=numbers(len(labels)),
                target=labelled(labels)[0],
                predictions=np.array(clusters)[:, None].tolist(),
                draws=[[1]] * len(labels),
            )
        )
    return Items.join(parts)


def pair_items(subset: str, labels: Sequence[int], found: Mapping[str, Sequence[float]], metric: str) -> Items:
    """Pairs with their similarity. mteb's `max_` takes the similarity that scores best; that one is kept."""
    name = metric.split("_")[0]
    wanted = PAIR_MEASURES if name == "max" else {name: PAIR_MEASURES[name]}
    best, score = None, -np.inf
    for key, sign in wanted.values():
        values = sign * np.asarray(found[key], dtype=np.float64)
        items = Items.of_columns(len(labels), subset=subset, item=numbers(len(labels)), target=labels, value=values)
        reached = float(statistic_of("PairClassification", items, metric).value(np.ones((1, len(items))))[0])
        if best is None or reached > score:
            best, score = items, reached
    assert best is not None
    return best


def similarity_items(subset: str, gold: Sequence[float], found: Mapping[str, Sequence[float]], metric: str) -> Items:
    """Pairs with their similarity and the one that people gave."""
    values = found["similarity_scores" if metric == "spearman" else "cosine_scores"]
    values = found["cosine_scores"] if values is None else values
    return Items.of_columns(len(gold), subset=subset, item=numbers(len(gold)), gold=gold, value=values)


def summary_items(subset: str, found: Mapping[str, Sequence[Any]], evaluator: Any, metric: str) -> Items:
    """Texts, each scored by its summaries' correlation by mteb's evaluator (an old one averages p-values in)."""
    count = len(found["human_scores"])
    one_by_one = [{key: [values[row]] for key, values in found.items()} for row in range(count)]
    scores = [float(evaluator._calculate_metrics(None, one)[metric]) for one in one_by_one]
    return Items.of_columns(count, subset=subset, item=numbers(count), score=scores)


def translation_items(subset: str, gold: Sequence[Sequence[int]], neighbours: Sequence[Mapping[str, float]]) -> Items:
    """Sentences with the index of the right translation and of the nearest one."""
    right = [int(gold[row][1]) for row in range(len(neighbours))]
    nearest = [int(hit["corpus_id"]) for hit in neighbours]
    return Items.of_columns(
        len(right),
        subset=subset,
        item=numbers(len(right)),
        score=[float(a == b) for a, b in zip(right, nearest, strict=True)],
        target=right,
        predictions=[[hit] for hit in nearest],
    )


def numbers(count: int) -> list[str]:
    """Names of items that have none: their row's number."""
    return [str(row) for row in range(count)]
