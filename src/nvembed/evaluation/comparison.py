"""All candidates side by side: scores with intervals, paired differences, the verdict, and pages a person can read."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import output_folder, write_file, write_manifest
from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.evaluation.results import Results, read_results
from nvembed.evaluation.statistic import statistic_of
from nvembed.evaluation.stats import Interval, Sampled, task_seed
from nvembed.evaluation.verdict import Difference, judge, sentence

if TYPE_CHECKING:
    from nvembed import recipe

logger = logging.getLogger(__name__)
ORDER = ("bm25", "base", "stage1", "stage2", "champion")
TRAINED = ("stage2", "stage1")
Scores = dict[str, dict[tuple[str, str], Interval]]


def compare(
    evaluation: recipe.Evaluation,
    registration: recipe.Registration,
    results: Sequence[Path],
    out: Path,
    champion: Path | None = None,
) -> dict[str, Any]:
    """Compare evaluation folders and write the comparison folder.

    Args:
        evaluation: bootstrap samples, confidence, seed.
        registration: the gate (`gate_task`, `min_gain`, `guard_margin`).
        results: evaluation folders of any candidates.
        out: the folder to be written.
        champion: the present champion's evaluation folder; it is then the one to beat, else the untrained backbone.

    Returns:
        What `comparison.json` holds.

    Raises:
        UserError: nothing to compare, a candidate given twice, folders of different eval sets or seeds, a gate task
            that was not measured.
    """
    models = _read_all(results, champion)
    measured = sorted({key for model in models.values() for key in model.tasks})
    split = _primary_split(measured)
    tasks = {task for where, task in measured if where == split}
    if registration.gate_task not in tasks:
        raise UserError(
            f"registration.gate_task is {registration.gate_task!r}, but the {split} split holds "
            f"{', '.join(sorted(tasks)) or 'no tasks'}; name one of these"
        )
    scores, differences = _measure(models, measured, evaluation)
    challenger = next((name for name in TRAINED if name in models), None)
    rival = "champion" if champion is not None else "base"
    content = _content(models, scores, differences, evaluation, registration, split)
    content["challenger"] = challenger
    content["verdict"] = _verdict(models, differences, challenger, rival, evaluation, registration, split)
    primary = content["scores"].get(rival, {}).get(split, {}).get(registration.gate_task)
    content["baseline"] = {"candidate": rival, "score": primary["score"] if primary else None}
    _write(out, content, models, evaluation, registration)
    if content["challenger"]:
        note(" ".join([sentence(content["verdict"]), *content["verdict"]["reasons"][:1]]))
    return content


def _read_all(folders: Sequence[Path], champion: Path | None) -> dict[str, Results]:
    read = [read_results(folder) for folder in folders]
    if champion is not None:
        read.append(replace(read_results(champion), candidate="champion"))
    if not read:
        raise UserError("nothing to compare: give at least one evaluation folder")
    models: dict[str, Results] = {}
    for one in sorted(
        read, key=lambda r: (ORDER.index(r.candidate) if r.candidate in ORDER else len(ORDER), r.candidate)
    ):
        if one.candidate in models:
            raise UserError(f"{one.folder}: {one.candidate} was given already, in {models[one.candidate].folder}")
        models[one.candidate] = one
    first = next(iter(models.values()))
    for one in models.values():
        if (one.eval_sets, one.seed) != (first.eval_sets, first.seed):
            raise UserError(
                f"{one.folder}: {one.candidate} was measured on other eval sets or with another seed than "
                f"{first.candidate} in {first.folder}; evaluate both on the same sets"
            )
        for key in one.items.keys() & first.items.keys():
            if [row["item"] for row in one.items[key]] != [row["item"] for row in first.items[key]]:
                raise UserError(
                    f"{one.folder}: items of {'/'.join(key)} differ from those in {first.folder}; evaluate anew"
                )
    return models


def _primary_split(measured: Sequence[tuple[str, str]]) -> str:
    splits = {split for split, _ in measured}
    if not splits:
        raise UserError("the evaluation folders hold no task; evaluate on eval sets with at least one")
    return "test" if "test" in splits else max(splits)


def _pairs(names: Mapping[str, Any]) -> list[tuple[str, str]]:
    trained = [name for name in TRAINED if name in names]
    pairs = [(a, b) for b in ("base", "champion", "bm25") for a in trained]
    return [(a, b) for a, b in [*pairs, ("stage2", "stage1"), ("base", "bm25")] if a in names and b in names]


def _measure(
    models: Mapping[str, Results], measured: Sequence[tuple[str, str]], evaluation: recipe.Evaluation
) -> tuple[Scores, list[Difference]]:
    """All models of a task are resampled together, so that every difference is paired."""
    scores: Scores = {name: {} for name in models}
    differences = []
    for split, task in measured:
        present = {name: model for name, model in models.items() if (split, task) in model.tasks}
        head = next(iter(present.values())).tasks[split, task]
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
            gap = sampled.difference(a, b)
            differences.append(Difference(task, split, head["metric"], a, b, gap.mean, gap.low, gap.high))
    return scores, differences


def _content(
    models: Mapping[str, Results],
    scores: Scores,
    differences: Sequence[Difference],
    evaluation: recipe.Evaluation,
    registration: recipe.Registration,
    split: str,
) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, model in models.items():
        for (where, task), row in model.tasks.items():
            span = scores[name][where, task]
            table.setdefault(name, {}).setdefault(where, {})[task] = {
                "type": row["type"],
                "metric": row["metric"],
                "score": span.mean,
                "low": span.low,
                "high": span.high,
                "items": row["items"],
                "variant": row["variant"],
            }
    metrics = {task: row["metric"] for m in models.values() for (where, task), row in m.tasks.items() if where == split}
    return {
        "primary": {"task": registration.gate_task, "metric": metrics[registration.gate_task], "split": split},
        "confidence": evaluation.confidence,
        "bootstrap_samples": evaluation.bootstrap_samples,
        "eval_sets": next(iter(models.values())).eval_sets,
        "scores": table,
        "differences": [asdict(difference) for difference in differences],
    }


def _verdict(
    models: Mapping[str, Results],
    differences: Sequence[Difference],
    challenger: str | None,
    rival: str,
    evaluation: recipe.Evaluation,
    registration: recipe.Registration,
    split: str,
) -> dict[str, Any]:
    missing = "a trained stage" if challenger is None else "the untrained backbone" if rival not in models else None
    if challenger is None or missing:
        gate = registration.model_dump(include={"min_gain", "guard_margin"}) | {"task": registration.gate_task}
        reason = f"There is nothing to judge: {missing} was not evaluated."
        failed = [registration.gate_task]
        return {
            "beats": rival,
            "challenger": challenger,
            "passed": False,
            "failed": failed,
            "gate": gate,
            "reasons": [reason],
        }
    return judge(
        differences,
        challenger=challenger,
        rival=rival,
        gate_task=registration.gate_task,
        split=split,
        min_gain=registration.min_gain,
        guard_margin=registration.guard_margin,
        confidence=evaluation.confidence,
    )


def _write(
    out: Path,
    content: dict[str, Any],
    models: Mapping[str, Results],
    evaluation: recipe.Evaluation,
    registration: recipe.Registration,
) -> None:
    from nvembed.evaluation.figure import draw_scores
    from nvembed.evaluation.report import write_report

    split, verdict = content["primary"]["split"], content["verdict"]
    gains = [d for d in content["differences"] if (d["split"], d["b"]) == (split, "base") and d["a"] in TRAINED]
    headline = {f"gain.{d['a']}.{split}.{d['task']}": d["mean"] for d in gains}
    headline |= {f"gain_low.{d['a']}.{split}.{d['task']}": d["low"] for d in gains}
    with output_folder(out) as folder:
        write_file(folder / "comparison.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        draw_scores(content, folder / "scores.png")
        write_report(content, models, folder)
        write_manifest(
            folder,
            kind="comparison",
            section={
                "evaluation": evaluation.model_dump(mode="json"),
                "registration": registration.model_dump(mode="json"),
            },
            inputs={name: model.content for name, model in models.items()},
            headline={**headline, "gate.passed": float(verdict["passed"])},
        )
