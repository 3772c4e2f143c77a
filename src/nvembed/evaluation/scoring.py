"""One task with mteb: its scores, and what each item contributed to them.

mteb gives a task's scores and, on request, its predictions. What the paired statistics need lies in the predictions:
a query's ranking, a test item's class in each experiment, a document's cluster in each clustering. The task's score is
computed again from these items, and differs from mteb's own by no more than mteb's rounding: `score_task` insists.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nvembed.core.errors import UserError
from nvembed.evaluation import predictions as read
from nvembed.evaluation.items import Items
from nvembed.evaluation.rankings import ranking_items
from nvembed.evaluation.statistic import refuse_unscored, statistic_of
from nvembed.evaluation.stats import observed
from nvembed.evaluation.watching import Seen

if TYPE_CHECKING:
    from nvembed.evaluation.sets import EvalSet

__all__ = ["Head", "MTEBSource", "Scored", "quiet", "score_set", "score_task"]

KEPT_SCORES = {
    "Retrieval": ("ndcg_at_1", "ndcg_at_10", "ndcg_at_100", "map_at_100", "mrr_at_10", "recall_at_10", "recall_at_100"),
    "Reranking": ("map_at_10", "map_at_1000", "mrr_at_10", "ndcg_at_10"),
    "InstructionReranking": ("p-MRR", "ndcg_at_5", "map_at_1000"),
    "Classification": ("accuracy", "f1", "f1_weighted"),
    "MultilabelClassification": ("accuracy", "f1", "lrap"),
    "Clustering": ("v_measure", "v_measure_std", "ami"),
    "PairClassification": ("max_ap", "max_accuracy", "max_f1", "cosine_ap"),
    "STS": ("cosine_spearman", "cosine_pearson", "spearman", "pearson"),
    "Summarization": ("cosine_spearman", "cosine_pearson", "spearman", "pearson"),
    "BitextMining": ("f1", "accuracy", "precision", "recall"),
}
"""Scores that are kept beside the main one, by type; a type not named here keeps what a retrieval task does."""
TOLERANCE = 1e-4
"""mteb rounds to five digits."""
ENCODE = {"batch_size": 1024, "show_progress_bar": False}


class Head(Protocol):
    """What names a task in an evaluation folder. An `EvalSet` is one."""

    @property
    def split(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def main_score(self) -> str: ...
    @property
    def instruction(self) -> str: ...


@dataclass(frozen=True)
class MTEBSource:
    """An mteb task's head; `split` is the hub's until a caller says what part it plays."""

    split: str
    name: str
    type: str
    main_score: str
    instruction: str = ""
    hf_split: str = ""


@dataclass(frozen=True)
class Scored:
    """A task's result: `score` by the metric `source.main_score`, `scores` as mteb names them, one row an item.

    `subsets` holds the score of each hf subset; `score` is their mean, as mteb's is.
    """

    source: Head
    score: float
    scores: dict[str, float]
    items: Sequence[Mapping[str, Any]]
    subsets: dict[str, float] = field(default_factory=dict)


def score_set(source: EvalSet, model: Any, seed: int) -> Scored:
    """Run a local set's task with a model in mteb's sense. Raises as `score_task` does."""
    from nvembed.evaluation.tasks import local_task

    scored = score_task(local_task(source, seed), model, split=source.split, seed=seed)
    return Scored(source, scored.score, scored.scores, scored.items, scored.subsets)


def score_task(task: Any, model: Any, *, split: str, seed: int | None = None) -> Scored:
    """Run any text task of mteb's with a model in mteb's sense, an aggregate of tasks too.

    Args:
        task: an `AbsTask`; its data are loaded if they are not.
        split: the hub's split, such as "test".
        seed: of everything that mteb draws; None: the task's own (42, as on the leaderboard). The task starts from it
            however often it has been run before.

    Returns:
        The mean over the task's subsets, its items, and the mean of mteb's other scores.

    Raises:
        UserError: a metric that cannot be computed from items.
        RuntimeError: the score computed from the items is not mteb's (mteb changed how it draws or scores).
    """
    name, kind, metric = task.metadata.name, task.metadata.type, task.metadata.main_score
    refuse_unscored(name, kind, metric, cross_validation=getattr(task, "is_cross_validation", False))
    if task.is_aggregate:
        scores, items = _parts(task, model, split, seed)
    else:
        scores, items = _run(task, model, split, seed)
    score = observed(statistic_of(kind, items, metric))
    subsets = {subset: float(found[metric]) for subset, found in scores.items()}
    mtebs = float(np.mean(list(subsets.values())))
    if not abs(score - mtebs) <= TOLERANCE:
        raise RuntimeError(f"{split}/{name}: {metric} from the items is {score:.6f}, but mteb reports {mtebs:.6f}")
    kept = dict.fromkeys([*KEPT_SCORES.get(kind, KEPT_SCORES["Retrieval"]), metric])
    means = {
        key: float(np.mean([found[key] for found in scores.values()]))
        for key in kept
        if all(key in found for found in scores.values())
    }
    prompt = task.metadata.prompt
    told = prompt if isinstance(prompt, str) else str((prompt or {}).get("query") or "")
    source = MTEBSource(split, name, kind, metric, told, split)
    return Scored(source, score, means, items, subsets)


def _parts(task: Any, model: Any, split: str, seed: int | None) -> tuple[dict[str, dict[str, float]], Items]:
    """The tasks of an aggregate, one subset each. Their data go as soon as each is scored."""
    scores, items = {}, []
    for part in task.tasks:
        loaded = part.data_loaded
        scored = score_task(part, model, split=split, seed=seed)
        scores[scored.source.name] = {**scored.scores, task.metadata.main_score: scored.score}
        items.append(Items.of([{**row, "subset": scored.source.name} for row in scored.items]))
        if not loaded:
            part.unload_data()
    return scores, Items.join(items)


def _run(task: Any, model: Any, split: str, seed: int | None) -> tuple[dict[str, Any], Items]:
    """mteb's scores by subset, and the items."""
    from mteb._set_seed import _set_seed

    with quiet(), tempfile.TemporaryDirectory(prefix="nvembed-mteb-") as folder:
        if seed is not None:
            task.seed = seed
        if not task.data_loaded:
            task.load_data()
        task.rng_state, task.np_rng = _set_seed(task.seed)
        seen = Seen(task)
        ranks = task._support_search  # rankings are taken as they are: thousands of queries are no JSON file
        with seen.watching():
            scores = task.evaluate(
                model, split, encode_kwargs=dict(ENCODE), prediction_folder=None if ranks else Path(folder)
            )
        if not scores:
            raise UserError(f"{task.metadata.name}: no subset of it has the split {split!r}")
        saved = {}
        if not ranks:
            saved = json.loads((Path(folder) / task.prediction_file_name).read_text(encoding="utf-8"))
    return dict(scores), Items.join([_items(task, subset, split, saved, seen) for subset in scores])


def _items(task: Any, subset: str, split: str, saved: Mapping[str, Any], seen: Seen) -> Items:
    kind, metric = task.metadata.type, task.metadata.main_score
    data = _data(task, subset)
    if task._support_search:
        told, parts = seen.rankings[subset], data[split]
        return ranking_items(
            subset, told, parts["queries"], parts["corpus"], metric, skip_first=bool(task.skip_first_result)
        )
    if kind == "MultilabelClassification":
        return read.multilabel_items(subset, seen.experiments[subset], metric)
    if kind == "BitextMining" and task.parallel_subsets:
        found = saved["parallel"][split][subset]
        return read.translation_items(subset, _gold(task.dataset[split]), found)
    found, rows = saved[subset][split], data[split]
    if kind == "BitextMining":
        return read.translation_items(subset, _gold(rows), found["sentence1-sentence2"])
    if kind == "Classification":
        return read.class_items(subset, rows[task.label_column_name], found, _folds(task, len(rows)))
    if kind == "Summarization":
        return read.summary_items(subset, found, task.evaluator, metric)
    if kind == "STS":
        return read.similarity_items(subset, [task._normalize(one) for one in rows["score"]], found, metric)
    if kind == "PairClassification":
        labels = rows[0][task.label_column_name] if len(rows) == 1 else rows[task.label_column_name]
        return read.pair_items(subset, labels, found, metric)
    if kind == "Clustering":
        return _clusters(task, subset, rows, found, seen)
    raise UserError(f"{task.metadata.name}: tasks of type {kind} are not scored item by item; leave the task out")


def _clusters(task: Any, subset: str, rows: Any, found: Any, seen: Seen) -> Items:
    labels = rows[task.label_column_name]
    if isinstance(found, list):
        return read.cluster_set_items(subset, labels, found)
    drawn = seen.drawn[subset]
    if drawn.sampled:
        labels = [labels[row] for row in drawn.sampled[0]]
    return read.cluster_items(subset, list(labels), list(found.values()), drawn.chosen)


def _data(task: Any, subset: str) -> Any:
    """A subset's splits, as mteb finds them."""
    return task.dataset if subset not in task.dataset and subset == "default" else task.dataset.get(subset)


def _gold(rows: Any) -> Sequence[Sequence[int]]:
    """The right translation of each sentence: its own row, unless a (BUCC's) list says otherwise."""
    return rows["gold"] if "gold" in rows else [(row, row) for row in range(len(rows))]


def _folds(task: Any, count: int) -> list[np.ndarray] | None:
    """The rows that each run of a cross-validation was tested on."""
    if not task.is_cross_validation:
        return None
    from sklearn.model_selection import KFold

    splitter = KFold(n_splits=task.n_splits, shuffle=True, random_state=task.seed)
    return [tested for _, tested in splitter.split(range(count))]


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
