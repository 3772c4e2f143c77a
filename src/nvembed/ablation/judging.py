"""Which rate on dev, which verdict on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nvembed.ablation.cells import Work, training_of
from nvembed.ablation.intervals import OverSeeds, over_seeds
from nvembed.ablation.plan import Arm
from nvembed.evaluation.statistic import statistic_of
from nvembed.evaluation.stats import task_seed

if TYPE_CHECKING:
    from nvembed.ablation.running import Runner


def mean_score(scores: Mapping[str, float]) -> float:
    """The plain mean over tasks, as the paper averages."""
    return sum(scores.values()) / len(scores)


def pick(dev: Mapping[float, Mapping[str, float]]) -> float:
    """The factor whose scores on dev have the highest mean over tasks; of equal ones the lowest."""
    return min(dev, key=lambda factor: (-mean_score(dev[factor]), factor))


def judge(runner: Runner) -> dict[str, Any]:
    """Scores, differences from the baseline with intervals, and verdicts: what `results.json` holds."""
    plan, picks = runner.plan, runner.picks()
    families: dict[str, Any] = {}
    for name, arms in plan.arms.items():
        section, tasks = plan.family(name), plan.tasks[name]
        works = {arm.variant: [runner.work(arm, picks[name, arm.variant], seed) for seed in plan.seeds] for arm in arms}
        steps, examples = arms[0].budget()
        families[name] = {
            "question": section.question,
            "baseline": section.baseline,
            "tasks": tasks,
            "steps": steps,
            "examples": examples,
            "backbone": arms[0].recipe.model.backbone,
            "variants": {arm.variant: _variant(runner, arm, picks[name, arm.variant]) for arm in arms},
            "differences": [
                row for arm in arms[1:] for row in _differences(runner, arm, arms[0], works[arm.variant], works)
            ],
        }
    evaluation = plan.recipe.evaluation
    return {
        "recipe": plan.recipe.name,
        "seeds": plan.seeds,
        "learning_rate_factors": plan.factors,
        "confidence": evaluation.confidence,
        "families": families,
    }


def _variant(runner: Runner, arm: Arm, picked: float) -> dict[str, Any]:
    """A variant's numbers: dev by factor, test by seed, what training said."""
    seeds = runner.plan.seeds
    works = {seed: runner.work(arm, picked, seed) for seed in seeds}
    dev = runner.dev_scores(arm)
    factors = runner.plan.factors
    edge = len(factors) > 2 and picked in (factors[0], factors[-1])
    return {
        "label": arm.label,
        "paper": arm.paper,
        "stages": list(arm.stages),
        "picked_factor": picked,
        "at_the_grids_edge": edge,
        "dev": {f"{factor:g}": scores for factor, scores in dev.items()},
        "test": {str(seed): work.scores("test") for seed, work in works.items()},
        "training": {str(seed): training_of(work) for seed, work in works.items()},
        "state": {str(seed): work.folder.name for seed, work in works.items()},
    }


def _differences(
    runner: Runner, arm: Arm, baseline: Arm, own: Sequence[Work], works: Mapping[str, Sequence[Work]]
) -> list[dict[str, Any]]:
    """A variant's difference from the baseline on each task."""
    rows = []
    for task in runner.plan.tasks[arm.family]:
        span = _over_seeds(runner, task, own, works[baseline.variant])
        paper = None if arm.paper is None or baseline.paper is None else round(arm.paper - baseline.paper, 2)
        rows.append(
            {
                "variant": arm.variant,
                "task": task,
                "metric": own[0].results("test").tasks["test", task]["metric"],
                "mean": span.mean,
                "low": span.low,
                "high": span.high,
                "verdict": span.verdict,
                "seeds": span.seeds,
                "error_items": span.error_items,
                "error_seeds": span.error_seeds,
                "degrees_of_freedom": span.freedom,
                "paper_difference": paper,
            }
        )
    return rows


def _over_seeds(runner: Runner, task: str, own: Sequence[Work], baseline: Sequence[Work]) -> OverSeeds:
    evaluation = runner.plan.recipe.evaluation
    both = [[work.results("test") for work in works] for works in (own, baseline)]
    rows = [[(r.tasks["test", task], r.items["test", task]) for r in some] for some in both]
    statistics = [[statistic_of(head["type"], items, head["metric"]) for head, items in some] for some in rows]
    return over_seeds(
        *statistics,
        confidence=evaluation.confidence,
        seed=task_seed(evaluation.seed, "test", task),
    )
