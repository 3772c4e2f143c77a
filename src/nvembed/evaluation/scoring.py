"""One task with mteb: its scores, and what each item contributed to them.

mteb gives a task's scores and, on request, its predictions. What the paired statistics need lies in the predictions:
a query's ranking, a test item's class in each experiment, a document's cluster in each clustering. The task's score is
computed again from these items, and differs from mteb's own by no more than mteb's rounding: `score_set` insists.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.evaluation.stats import Mean, Statistic, VMeasure, observed

if TYPE_CHECKING:
    from nvembed.evaluation.sets import EvalSet

KEPT_SCORES = {
    "Retrieval": ("ndcg_at_1", "ndcg_at_10", "ndcg_at_100", "map_at_100", "mrr_at_10", "recall_at_10", "recall_at_100"),
    "Classification": ("accuracy", "f1", "f1_weighted"),
    "Clustering": ("v_measure", "v_measure_std", "ami"),
}
KEPT_HITS = 10
SNIPPET = 400
"""Characters of a text that travel with a ranking, for the report's list of queries won and lost."""


@dataclass(frozen=True)
class Scored:
    """A task's result: `score` by the metric `source.main_score`, `scores` as mteb names them, one row an item."""

    source: EvalSet
    score: float
    scores: dict[str, float]
    items: list[dict[str, Any]]


def score_set(source: EvalSet, model: Any, seed: int) -> Scored:
    """Run one task with a model in mteb's sense.

    Raises:
        RuntimeError: the score computed from the items is not mteb's (mteb changed how it draws or scores).
    """
    from nvembed.evaluation.tasks import local_task

    task: Any = local_task(source, seed)
    with quiet(), tempfile.TemporaryDirectory(prefix="nvembed-mteb-") as folder:
        scores = task.evaluate(
            model,
            source.split,
            encode_kwargs={"batch_size": 1024, "show_progress_bar": False},
            prediction_folder=Path(folder),
        )["default"]
        saved = json.loads((Path(folder) / task.prediction_file_name).read_text(encoding="utf-8"))
    predictions = saved["default"][source.split]
    if source.type == "Retrieval":
        items = _rankings(source, predictions)
    elif source.type == "Classification":
        items = _classes(source, predictions)
    else:
        items = _clusters(source, predictions["Level 0"], task.max_documents_per_cluster, seed)
    score = observed(statistic_of(source.type, items))
    if abs(score - scores[source.main_score]) > 1e-4:
        raise RuntimeError(
            f"{source.split}/{source.name}: {source.main_score} from the items is {score:.6f}, "
            f"but mteb reports {scores[source.main_score]:.6f}"
        )
    kept = {name: float(scores[name]) for name in KEPT_SCORES[source.type]}
    return Scored(source, score, kept, items)


def statistic_of(task_type: str, items: list[dict[str, Any]]) -> Statistic:
    """A task's score as a function of its items, for the bootstrap."""
    if task_type != "Clustering":
        return Mean(np.array([item["score"] for item in items]))
    return VMeasure(
        np.array([item["target"] for item in items]),
        np.array([item["predictions"] for item in items]).T,
        np.array([item["draws"] for item in items]).T,
    )


def _rankings(source: EvalSet, rankings: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    import pytrec_eval

    judged = pytrec_eval.RelevanceEvaluator(source.qrels, {"ndcg_cut.10"}).evaluate(rankings)
    items = []
    for query, text in source.queries.items():
        # equal scores fall as trec_eval lets them: by id, the larger first
        hits = [i for i, _ in sorted(rankings[query].items(), key=lambda hit: (hit[1], hit[0]), reverse=True)]
        relevant = source.qrels[query]
        best = max(relevant, key=lambda document: (relevant[document], document))
        items.append(
            {
                "item": query,
                "score": float(judged[query]["ndcg_cut_10"]),
                "rank": next((place for place, hit in enumerate(hits, 1) if hit in relevant), None),
                "top": hits[:KEPT_HITS],
                "text": text[:SNIPPET],
                "relevant_text": source.corpus[best][:SNIPPET],
                "top_text": source.corpus[hits[0]][:SNIPPET] if hits else "",
            }
        )
    return items


def _classes(source: EvalSet, predictions: list[list[float]]) -> list[dict[str, Any]]:
    targets = np.array(source.test[1])
    predicted = np.array(predictions).astype(int)
    correct = (predicted == targets).mean(axis=0)
    return [
        {"item": str(row), "score": float(correct[row]), "target": int(targets[row]), "predictions": column.tolist()}
        for row, column in enumerate(predicted.T)
    ]


def _clusters(source: EvalSet, clusterings: list[list[int]], drawn: int, seed: int) -> list[dict[str, Any]]:
    """mteb keeps the cluster of each draw but not which document it drew: its seeded generator says that again."""
    rng = random.Random(seed)
    size = len(source.test[0])
    assignments = np.full((len(clusterings), size), -1)
    draws = np.zeros((len(clusterings), size), dtype=int)
    for row, clusters in enumerate(clusterings):
        documents = np.array(rng.choices(range(size), k=drawn))
        assignments[row, documents] = clusters
        draws[row] = np.bincount(documents, minlength=size)
    return [
        {
            "item": str(index),
            "score": None,
            "target": source.test[1][index],
            "predictions": assignments[:, index].tolist(),
            "draws": draws[:, index].tolist(),
        }
        for index in range(size)
    ]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """mteb, datasets and scikit-learn say a great deal; their warnings of substance still reach the log."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("mteb", "bm25s")]
    levels = [logger.level for logger in loggers]
    bars = datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            # ten regressions on eight texts a class stop at mteb's 100 iterations by design
            warnings.filterwarnings("ignore", module="sklearn")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
