"""What an mteb task computes on its way and does not hand out: rankings as scored, documents drawn, labels found.

The task's own methods are wrapped while it runs. A rankings file of thousands of queries and a thousand documents each
is spared, and nothing that mteb draws at random is drawn again by a copy of its code.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class WatchedRandom(random.Random):
    """A generator that remembers what it drew, by the method that drew."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.setstate(state)
        self.sampled: list[list[int]] = []
        self.chosen: list[list[int]] = []

    def sample(self, population: Any, k: int, **kwargs: Any) -> list[Any]:
        """As the parent's, remembered."""
        drawn = super().sample(population, k, **kwargs)
        self.sampled.append(drawn)
        return drawn

    def choices(self, population: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """As the parent's, remembered."""
        drawn = super().choices(population, *args, **kwargs)
        self.chosen.append(drawn)
        return drawn


@dataclass
class Rankings:
    """What mteb knows of one subset's queries when it scores them."""

    scores: Mapping[str, Mapping[str, float]]
    qrels: Mapping[str, Mapping[str, int]]
    results: Mapping[str, Mapping[str, float]]
    changed: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Seen:
    """What mteb computes for one subset after another and does not hand out: watched on the task itself."""

    def __init__(self, task: Any) -> None:
        self._task, self._subset = task, ""
        self.rankings: dict[str, Rankings] = {}
        self.experiments: dict[str, list[tuple[Any, Any]]] = {}
        self.drawn: dict[str, WatchedRandom] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While this lasts, the task's methods report."""
        names = ["_evaluate_subset"]
        names += ["task_specific_scores"] if self._task._support_search else []
        names += ["_calculate_scores"] if self._task.metadata.type == "MultilabelClassification" else []
        for name in names:
            setattr(self._task, name, getattr(self, name)(getattr(self._task, name)))
        try:
            yield
        finally:
            for name in names:
                delattr(self._task, name)

    def _evaluate_subset(self, inner: Any) -> Any:
        def evaluate_subset(*args: Any, hf_subset: str, **kwargs: Any) -> Any:
            self._subset = hf_subset
            self.drawn[hf_subset] = self._task.rng_state = WatchedRandom(self._task.rng_state.getstate())
            return inner(*args, hf_subset=hf_subset, **kwargs)

        return evaluate_subset

    def _calculate_scores(self, inner: Any) -> Any:
        def calculate_scores(y_test: Any, y_pred: Any, *args: Any) -> Any:
            self.experiments.setdefault(self._subset, []).append((y_test, y_pred))
            return inner(y_test, y_pred, *args)

        return calculate_scores

    def task_specific_scores(self, inner: Any) -> Any:
        def specific_scores(scores: Any, qrels: Any, results: Any, **kwargs: Any) -> Any:
            from mteb._evaluators import retrieval_metrics

            told = self.rankings[self._subset] = Rankings(scores, qrels, results)
            own = retrieval_metrics.calculate_pmrr

            def pmrr(before: Any, after: Any, changed: Any) -> Any:
                told.changed = changed
                return own(before, after, changed)

            retrieval_metrics.calculate_pmrr = pmrr  # type: ignore[assignment]
            try:
                return inner(scores, qrels, results, **kwargs)
            finally:
                retrieval_metrics.calculate_pmrr = own

        return specific_scores
