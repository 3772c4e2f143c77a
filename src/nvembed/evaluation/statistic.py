"""Which function of its items is a task's score, by the task's type and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from nvembed.core.errors import UserError
from nvembed.evaluation.items import Items
from nvembed.evaluation.measures import (
    F1,
    AveragePrecision,
    BestAccuracy,
    Mean,
    MeanOverRuns,
    Spearman,
    Statistic,
    Strata,
    VMeasure,
)


def statistic_of(task_type: str, items: Sequence[Mapping[str, Any]], metric: str = "") -> Statistic:
    """A task's score as a function of its items, for the bootstrap.

    Args:
        task_type: as mteb names it. items: of one task. metric: the task's main score; empty: the type's usual one.

    Raises:
        UserError: a metric that no item's share is known of.
    """
    parts: list[Statistic] = []
    weights: list[float] = []
    subsets = Items.of(items).runs("subset")
    for subset in subsets:
        groups = subset.runs("group")
        parts += [_single(task_type, group, metric) for group in groups]
        weights += [1 / len(groups) / len(subsets)] * len(groups)
    return parts[0] if len(parts) == 1 else Strata(parts, weights)


def _single(task_type: str, items: Items, metric: str) -> Statistic:
    if task_type == "Clustering":
        predictions, draws = items.column("predictions").T, items.column("draws").T
        labels = items.column("targets").T if items.has("targets") else items.column("target")[None]
        return VMeasure(np.repeat(labels, len(predictions) // len(labels), axis=0), predictions, draws)
    if task_type == "PairClassification":
        kind = BestAccuracy if metric.endswith("accuracy") else AveragePrecision
        return kind(items.column("target"), items.column("value"))
    if task_type == "STS":
        return Spearman(items.column("gold"), items.column("value"))
    if metric in ("f1", "f1_weighted") and task_type in ("Classification", "MultilabelClassification", "BitextMining"):
        return _f1(task_type, items, metric)
    if task_type == "Classification" and items.has("predictions"):
        predictions = items.column("predictions")
        if (predictions < 0).any():
            return MeanOverRuns(predictions == items.column("target")[:, None], predictions >= 0)
    return Mean(items.column("score"))


def _f1(task_type: str, items: Items, metric: str) -> F1:
    predictions = items.column("predictions")
    if task_type == "MultilabelClassification":
        truth = items.column("targets")
        runs = predictions.reshape(len(items), -1, truth.shape[1])
        found = [sparse.csr_array(runs[:, run]) for run in range(runs.shape[1])]
        return F1(sparse.csr_array(truth), found, weighted=False, absent=True)
    classes = np.unique(np.concatenate([items.column("target")[:, None], predictions], axis=1), return_inverse=True)[1]
    classes = classes.reshape(len(items), -1)
    one_hot = [
        sparse.csr_array((np.ones(len(items)), (np.arange(len(items)), column)), shape=(len(items), classes.max() + 1))
        for column in classes.T
    ]
    return F1(one_hot[0], one_hot[1:], weighted=task_type == "BitextMining" or metric == "f1_weighted")


def unscored(task_type: str, metric: str, *, cross_validation: bool = False) -> str | None:
    """Why a task's items cannot be scored, or None if they can."""
    known = {
        "Clustering": ("v_measure",),
        "STS": ("cosine_spearman", "spearman"),
        "PairClassification": ("max_ap", "max_accuracy", "cosine_ap", "similarity_ap", "cosine_accuracy"),
        "Classification": ("accuracy", "f1", "f1_weighted"),
        "MultilabelClassification": ("accuracy", "f1"),
        "BitextMining": ("f1", "accuracy"),
        "Summarization": ("cosine_spearman", "cosine_pearson", "spearman", "pearson", "dot_spearman", "dot_pearson"),
    }
    if task_type in ("Regression", "ZeroShotClassification"):
        return f"tasks of type {task_type} are not scored item by item"
    if task_type in known and metric not in known[task_type]:
        return f"the metric {metric!r} of a {task_type} task is not scored item by item; known: {known[task_type]}"
    if cross_validation and metric != "accuracy":
        return f"the metric {metric!r} is not scored item by item under cross-validation"
    return None


def refuse_unscored(name: str, task_type: str, metric: str, *, cross_validation: bool = False) -> None:
    """Raise a UserError for a task whose items cannot be scored."""
    why = unscored(task_type, metric, cross_validation=cross_validation)
    if why:
        raise UserError(f"{name}: {why}; leave the task out")
