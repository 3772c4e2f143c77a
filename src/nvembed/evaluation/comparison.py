"""All candidates side by side: scores with intervals, paired differences, the verdict, and pages a person can read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import output_folder, write_file, write_manifest
from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.core.usage import usage_of
from nvembed.evaluation.costs import Cost, as_json, cost_headline, costs
from nvembed.evaluation.gate import gate_tasks, guard_tasks, judge
from nvembed.evaluation.judgements import count_judgement
from nvembed.evaluation.paired import TRAINED, Pair, Scores, differences, mean_differences, resample
from nvembed.evaluation.results import Results, read_results
from nvembed.evaluation.stats import Interval
from nvembed.evaluation.verdict import Difference, paragraph, sentence

if TYPE_CHECKING:
    from nvembed import recipe
    from nvembed.evaluation.contamination import Contamination

logger = logging.getLogger(__name__)
ORDER = ("bm25", "base", "stage1", "stage2", "champion")


def compare(
    evaluation: recipe.Evaluation,
    registration: recipe.Registration,
    results: Sequence[Path],
    out: Path,
    champion: Path | None = None,
    *,
    contamination: Contamination | None = None,
    ledger: Path | None = None,
    made: Iterable[Path] = (),
    run: str = "",
) -> dict[str, Any]:
    """Compare evaluation folders and write the comparison folder.

    Args:
        evaluation: bootstrap samples, confidence, seed.
        registration: the gate (`gate_task`, `min_gain`, `guard_tasks`, `guard_margin`, `limits`).
        results: evaluation folders of any candidates.
        out: the folder to be written.
        champion: the present champion's evaluation folder; it is then the one to beat, else the untrained backbone.
        contamination: what was found of the test texts in the training data.
        ledger: folder of the state that counts how often each test set has judged; None: not counted.
        made: folders of the tasks before, whose usage tells what it all cost; `run`: the present pipeline run.

    Returns:
        What `comparison.json` holds.

    Raises:
        UserError: nothing to compare, a candidate given twice, folders of different eval sets or seeds, a gate task
            that was not measured.
    """
    models = _read_all(results, champion)
    planned = sorted({key for model in models.values() for key in (*model.tasks, *model.errors)})
    split = _primary_split(planned)
    types = _types(models, split)
    gate = gate_tasks(registration, types)
    guards = guard_tasks(registration, gate, types)
    measured = [key for key in planned if any(key in model.tasks for model in models.values())]
    scores, draws, metrics = resample(models, measured, evaluation)
    gaps = differences(draws, metrics, evaluation.confidence)
    means = mean_differences(draws, registration.gate_task, gate, split, evaluation.confidence)
    challenger = next((name for name in TRAINED if name in models), None)
    rival = "champion" if champion is not None else "base"
    content = _content(models, scores, gaps, evaluation, registration, split, gate)
    content["mean_differences"] = [asdict(difference) for difference in means]
    content["challenger"] = challenger
    if challenger is None or rival not in models:
        content["verdict"] = _nothing_to_judge(challenger, rival, registration)
    else:
        wanted = {(d.task, d.a, d.b): d for d in [*gaps, *means] if d.split == split}
        primary = wanted.get((registration.gate_task, challenger, rival))
        content["verdict"] = verdict = judge(
            models[challenger],
            models[rival],
            primary,
            {task: wanted.get((task, challenger, rival)) for task in guards},
            registration,
            gate_of=gate,
            split=split,
            confidence=evaluation.confidence,
            contamination=contamination,
            uses=_count(ledger, models[challenger], split),
        )
        about = _about(scores, models, (challenger, rival), gate, split) | {"difference": primary}
        verdict["paragraph"] = paragraph(verdict, about, evaluation.confidence)
    content["baseline"] = {"candidate": rival, "score": _baseline(scores.get(rival, {}), gate, split)}
    used = usage_of([*made, *results])
    _write(out, content, models, evaluation, registration, costs(used, registration.prices, run))
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
            if not one.items[key].ids().equals(first.items[key].ids()):
                raise UserError(
                    f"{one.folder}: items of {'/'.join(key)} differ from those in {first.folder}; evaluate anew"
                )
    return models


def _primary_split(measured: Sequence[tuple[str, str]]) -> str:
    splits = {split for split, _ in measured}
    if not splits:
        raise UserError("the evaluation folders hold no task; evaluate on eval sets with at least one")
    return "test" if "test" in splits else max(splits)


def _types(models: Mapping[str, Results], split: str) -> dict[str, str]:
    """Task → type, of the split that judges; a task that failed everywhere has none."""
    types = {task: "" for model in models.values() for where, task in model.errors if where == split}
    for model in models.values():
        types |= {task: str(row["type"]) for (where, task), row in model.tasks.items() if where == split}
    return types


def _about(
    scores: Scores, models: Mapping[str, Results], pair: Pair, gate: Sequence[str], split: str
) -> dict[str, Any]:
    """What the paragraph says of the primary metric."""
    both = [task for task in gate if all((split, task) in scores[name] for name in pair)]
    rows = [models[pair[0]].tasks[split, task] for task in both]
    return {
        "scores": [fmean(scores[name][split, task].mean for task in both) if both else 0.0 for name in pair],
        "items": sum(int(row["items"]) for row in rows),
        "type": rows[0]["type"] if rows else "",
        "metric": rows[0]["metric"] if len(rows) == 1 else "mean",
        "tasks": len(rows),
    }


def _baseline(scores: Mapping[tuple[str, str], Interval], gate: Sequence[str], split: str) -> float | None:
    """The score to beat; None where one of its tasks was not measured."""
    found = [scores.get((split, task)) for task in gate]
    return None if None in found else fmean(one.mean for one in found if one is not None)


def _count(ledger: Path | None, challenger: Results, split: str) -> dict[str, int] | None:
    if ledger is None:
        return None
    names = {
        f"{task} ({row['hf_split']})" if row.get("hf_split") else f"{challenger.eval_sets[:16]}/{split}/{task}"
        for (where, task), row in challenger.tasks.items()
        if where == split
    }
    return count_judgement(ledger, challenger.content, names)


def _nothing_to_judge(challenger: str | None, rival: str, registration: recipe.Registration) -> dict[str, Any]:
    missing = "a trained stage" if challenger is None else "the untrained backbone"
    reason = f"There is nothing to judge: {missing} was not evaluated."
    return {
        "beats": rival,
        "challenger": challenger,
        "passed": False,
        "failed": [registration.gate_task],
        "gate": registration.model_dump(include={"min_gain", "guard_margin"}) | {"task": registration.gate_task},
        "reasons": [reason],
        "conditions": [],
        "uses": {},
        "chance_to_pass_by_luck": None,
        "paragraph": reason,
    }


def _content(
    models: Mapping[str, Results],
    scores: Scores,
    gaps: Sequence[Difference],
    evaluation: recipe.Evaluation,
    registration: recipe.Registration,
    split: str,
    gate: Sequence[str],
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
        "primary": {
            "task": registration.gate_task,
            "metric": metrics.get(gate[0], "") if gate == [registration.gate_task] else "mean",
            "split": split,
            "tasks": list(gate),
        },
        "confidence": evaluation.confidence,
        "bootstrap_samples": evaluation.bootstrap_samples,
        "eval_sets": next(iter(models.values())).eval_sets,
        "scores": table,
        "differences": [asdict(gap) for gap in gaps],
    }


def _write(
    out: Path,
    content: dict[str, Any],
    models: Mapping[str, Results],
    evaluation: recipe.Evaluation,
    registration: recipe.Registration,
    spent: Sequence[Cost],
) -> None:
    from nvembed.evaluation.figure import MOST_TASKS, draw_scores, task_order
    from nvembed.evaluation.forest import draw_forest
    from nvembed.evaluation.report import write_report

    split, verdict = content["primary"]["split"], content["verdict"]
    gains = [d for d in content["differences"] if (d["split"], d["b"]) == (split, "base") and d["a"] in TRAINED]
    headline = {f"gain.{d['a']}.{split}.{d['task']}": d["mean"] for d in gains}
    headline |= {f"gain_low.{d['a']}.{split}.{d['task']}": d["low"] for d in gains}
    with output_folder(out) as folder:
        write_file(folder / "comparison.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        draw = draw_forest if len(task_order(content)) > MOST_TASKS else draw_scores
        draw(content, folder / "scores.png")
        write_file(folder / "costs.json", json.dumps(as_json(spent, registration.prices), indent=2) + "\n")
        write_report(content, models, folder, costs=spent, prices=registration.prices)
        write_manifest(
            folder,
            kind="comparison",
            section={
                "evaluation": evaluation.model_dump(mode="json"),
                "registration": registration.model_dump(mode="json"),
            },
            inputs={name: model.content for name, model in models.items()},
            headline={**headline, **cost_headline(spent), "gate.passed": float(verdict["passed"])},
        )
