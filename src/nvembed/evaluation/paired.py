"""All models on all tasks: scores and paired differences, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.core.progress import track
from nvembed.evaluation.correction import correct
from nvembed.evaluation.results import Results
from nvembed.evaluation.statistic import statistic_of
from nvembed.evaluation.stats import Draws, Interval, Sampled, task_seed
from nvembed.evaluation.verdict import Difference

if TYPE_CHECKING:
    from nvembed import recipe

TRAINED = ("stage2", "stage1")
Scores = dict[str, dict[tuple[str, str], Interval]]
Pair = tuple[str, str]


def resample(
    models: Mapping[str, Results], measured: Sequence[tuple[str, str]], evaluation: recipe.Evaluation
) -> tuple[Scores, dict[tuple[str, str, Pair], Draws], dict[tuple[str, str], str]]:
    """All models of a task are resampled together, so that every difference is paired."""
    scores: Scores = {name: {} for name in models}
    draws, metrics = {}, {}
    for split, task in track(measured, "resampling tasks"):
        present = {name: model for name, model in models.items() if (split, task) in model.tasks}
        head = next(iter(present.values())).tasks[split, task]
        metrics[split, task] = str(head["metric"])
        sampled = Sampled(
            {
                name: statistic_of(head["type"], model.items[split, task], head["metric"])
                for name, model in present.items()
            },
            samples=evaluation.bootstrap_samples,
            confidence=evaluation.confidence,
            seed=task_seed(evaluation.seed, split, task),
        )
        for name in present:
            scores[name][split, task] = sampled.score(name)
        for a, b in _pairs(present):
            draws[split, task, (a, b)] = sampled.difference_draws(a, b)
    return scores, draws, metrics


def differences(
    draws: Mapping[tuple[str, str, Pair], Draws], metrics: Mapping[tuple[str, str], str], confidence: float
) -> list[Difference]:
    """Every paired difference, with what holds of it among all tasks of its split."""
    families: dict[tuple[str, Pair], dict[str, Draws]] = {}
    for (split, task, pair), drawn in draws.items():
        families.setdefault((split, pair), {})[task] = drawn
    corrected = {
        (*family, task): one for family, own in families.items() for task, one in correct(own, confidence).items()
    }
    rows = []
    for (split, task, (a, b)), drawn in draws.items():
        gap, more = drawn.interval(confidence), corrected[split, (a, b), task]
        rows.append(Difference(task, split, metrics[split, task], a, b, gap.mean, gap.low, gap.high, **asdict(more)))
    return rows


def mean_differences(
    draws: Mapping[tuple[str, str, Pair], Draws], name: str, tasks: Sequence[str], split: str, confidence: float
) -> list[Difference]:
    """Where the gate asks for a mean over tasks: the difference in it of each pair that has all of them."""
    if name in tasks:
        return []
    rows = []
    for a, b in dict.fromkeys(pair for where, _, pair in draws if where == split):
        own = [drawn for task in tasks if (drawn := draws.get((split, task, (a, b)))) is not None]
        if len(own) == len(tasks):
            mean = Draws(fmean(one.value for one in own), np.mean([one.drawn for one in own], axis=0))
            gap, alone = mean.interval(confidence), correct({name: mean}, confidence)[name]
            rows.append(Difference(name, split, "mean", a, b, gap.mean, gap.low, gap.high, **asdict(alone)))
    return rows


def _pairs(names: Mapping[str, Any]) -> list[tuple[str, str]]:
    trained = [name for name in TRAINED if name in names]
    pairs = [(a, b) for b in ("base", "champion", "bm25") for a in trained]
    return [(a, b) for a, b in [*pairs, ("stage2", "stage1"), ("base", "bm25")] if a in names and b in names]
