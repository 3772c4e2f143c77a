"""How often the gate errs: on models that are no better, and on models that are better by a stated amount.

    python benchmarks/gate.py --out benchmarks/results/gate.json

Two models are drawn again and again from one population of items: an item is hard or easy for both, and each has luck
of its own. In the first 1,000 trials of a kind both are equally good, and every model that passes is one too many: at
most the stated share may. In the next 1,000 the new one is better by a planted gain, set on a large sample: the stated
share of them must pass. Each trial goes through `resample`, `differences` and `judge`, as `compare` does. Every kind
of task is the gate's own once, without guards (the hardest case: nothing else can stop a model), and a whole gate as
the recipes have it is tried too. Half an hour on two busy cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, heading
from scipy.special import ndtr
from scipy.stats import beta

from nvembed.evaluation.gate import judge
from nvembed.evaluation.items import Items
from nvembed.evaluation.paired import differences, resample
from nvembed.evaluation.results import Results
from nvembed.evaluation.statistic import statistic_of
from nvembed.evaluation.stats import observed
from nvembed.recipe import Evaluation, Registration

FALSE_PASSES = 0.05
"""The stated share. The lower end of a two-sided 95 % interval errs half as often: the rest is room for what a
bootstrap of some hundred items gets wrong."""
LARGE = 200_000
METRICS = {
    "Retrieval": "ndcg_at_10",
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "PairClassification": "max_ap",
    "STS": "cosine_spearman",
}
Draw = Callable[[np.random.Generator, int, float], Items]


@dataclass(frozen=True)
class Kind:
    """A kind of task: how many items it has, the gain that is planted, and how often it must be found."""

    items: int
    gain: float
    power: float


KINDS = {
    "Retrieval": Kind(400, 0.05, 0.90),
    "Classification": Kind(400, 0.05, 0.90),
    "Clustering": Kind(400, 0.12, 0.90),
    "PairClassification": Kind(600, 0.07, 0.90),
    "STS": Kind(600, 0.04, 0.90),
}


@dataclass(frozen=True)
class Population:
    """Items drawn once; a model's answers on them are drawn with its luck and its `skill` above the common one."""

    kind: str
    rng: np.random.Generator
    count: int

    def models(self, skills: tuple[float, float]) -> list[Items]:
        """Two models' items."""
        hard, own = self.rng.normal(size=self.count), self.rng.integers(0, 8, self.count)
        return [self._items(hard, own, self.rng.normal(size=self.count), skill) for skill in skills]

    def _items(self, hard: np.ndarray, truth: np.ndarray, luck: np.ndarray, skill: float) -> Items:
        able = skill - hard + 0.6 * luck
        if self.kind == "Retrieval":
            rank = np.floor(np.exp(1.2 - 1.5 * able)) + 1
            columns: dict[str, Any] = {"score": np.where(rank <= 10, 1 / np.log2(rank + 1), 0.0)}
        elif self.kind == "Classification":  # ten experiments, each right with the item's own chance
            columns = {"score": self.rng.binomial(10, ndtr(0.8 + able)) / 10}
        elif self.kind == "Clustering":
            found = np.where(able > -0.6, truth, self.rng.integers(0, 8, self.count))
            columns = {"target": truth, "predictions": found[:, None].tolist(), "draws": [[1]] * self.count}
        elif self.kind == "PairClassification":
            label = (truth < 3).astype(int)
            columns = {"target": label, "value": (1.5 + skill) * label + 0.8 * hard + 0.5 * luck}
        else:
            columns = {"gold": truth.astype(float), "value": (0.5 + skill) * truth + 0.8 * hard + 0.5 * luck}
        return Items.of_columns(self.count, subset="default", item=[str(n) for n in range(self.count)], **columns)


@cache
def skill_for(kind: str, gain: float) -> float:
    """The skill that lifts a kind's score by `gain` in the population."""

    def score(skill: float) -> float:
        (items,) = Population(kind, np.random.default_rng(0), LARGE).models((skill,))  # type: ignore[arg-type]
        return observed(statistic_of(kind, items, METRICS[kind]))

    start, low, high = score(0.0), 0.0, 2.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) - start < gain else (low, middle)
    return (low + high) / 2


def trial(
    number: int, kinds: tuple[str, ...], skills: tuple[float, ...], gate: Registration, section: Evaluation
) -> bool:
    """Whether a new model passes: one that is better by `skills` (one for each kind of task), or by nothing."""
    tasks: dict[str, dict[tuple[str, str], Any]] = {"base": {}, "stage2": {}}
    items: dict[str, dict[tuple[str, str], Items]] = {"base": {}, "stage2": {}}
    for place, (kind, skill) in enumerate(zip(kinds, skills, strict=True)):
        rng = np.random.default_rng([number, place])
        both = Population(kind, rng, KINDS[kind].items).models((0.0, skill))
        for name, own in zip(("base", "stage2"), both, strict=True):
            items[name]["test", kind] = own
            tasks[name]["test", kind] = {"type": kind, "metric": METRICS[kind], "items": len(own)}
    models = {name: Results(Path(), name, "", number, tasks[name], items[name], "", {}) for name in ("base", "stage2")}
    seeded = section.model_copy(update={"seed": number})
    _, draws, metrics = resample(models, sorted(tasks["base"]), seeded)
    rows = {d.task: d for d in differences(draws, metrics, section.confidence) if (d.a, d.b) == ("stage2", "base")}
    guards = {task: rows[task] for task in (gate.guard_tasks if gate.guard_tasks is not None else kinds[1:])}
    verdict = judge(
        models["stage2"],
        models["base"],
        rows[gate.gate_task],
        guards,
        gate,
        gate_of=[gate.gate_task],
        split="test",
        confidence=section.confidence,
    )
    return bool(verdict["passed"])


def share(passed: list[bool]) -> dict[str, float]:
    """How many passed, and the exact 95 % interval of the share (Clopper and Pearson)."""
    hits, trials = sum(passed), len(passed)
    low = float(beta.ppf(0.025, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, trials - hits)) if hits < trials else 1.0
    return {"passed": hits, "trials": trials, "share": hits / trials, "low": low, "high": high}


def main() -> int:
    """Try all kinds; 1 if a stated share does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, help="of each kind, without and with a gain (1000)")
    parser.add_argument("--samples", type=int, default=400, help="bootstrap resamples (400)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args()
    print(heading(), flush=True)
    section = Evaluation(bootstrap_samples=asked.samples)
    nominal = (1 - section.confidence) / 2
    print(f"\nAn equal model may pass in {FALSE_PASSES:.1%} of trials (nominally it does in {nominal:.1%}).\n")
    print(f"{'gate':36} {'items':>6} {'equal passes':>22} {'gain':>6} {'found':>22} {'stated':>7} {'s':>5}")
    scenarios = [(kind, (kind,), one) for kind, one in KINDS.items()]
    whole = ("Retrieval", "Classification", "Clustering")
    scenarios.append(("Retrieval, two tasks guard", whole, Kind(400, KINDS["Retrieval"].gain, 0.80)))
    rows, held = [], True
    with multiprocessing.get_context("spawn").Pool(asked.workers) as pool:
        for name, kinds, stated in scenarios:
            started = time.monotonic()
            gate = Registration(gate_task=kinds[0], guard_tasks=list(kinds[1:]))
            gains = tuple(skill_for(kind, KINDS[kind].gain) for kind in kinds)
            equal, better = (
                share(pool.map(partial(trial, kinds=kinds, skills=skills, gate=gate, section=section), numbers, 5))
                for skills, numbers in (
                    ((0.0,) * len(kinds), range(asked.trials)),
                    (gains, range(asked.trials, 2 * asked.trials)),
                )
            )
            holds = equal["share"] <= FALSE_PASSES and better["share"] >= stated.power
            held &= holds
            rows.append({"gate": name, "equal": equal, "better": better, "holds": holds, **asdict(stated)})
            print(
                f"{name:36} {stated.items:6} {_said(equal):>22} {stated.gain:6.3f} {_said(better):>22} "
                f"{stated.power:7.0%} {time.monotonic() - started:5.0f}{'' if holds else '  NOT HELD'}",
                flush=True,
            )
    if asked.out:
        figures = {"machine": describe(), "false_passes": FALSE_PASSES, "nominal": nominal, "samples": asked.samples}
        asked.out.write_text(json.dumps({**figures, "gates": rows}, indent=2) + "\n", encoding="utf-8")
    return 0 if held else 1


def _said(one: dict[str, float]) -> str:
    return f"{one['share']:.1%} [{one['low']:.1%}, {one['high']:.1%}]"


if __name__ == "__main__":
    sys.exit(main())
