"""Tasks that judge: every candidate on the held-out sets, then all of them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.core.artifacts import read_manifest
from nvembed.core.digests import digest_text
from nvembed.core.state import state_folder
from nvembed.recipe import Evaluation, Model, Registration, Resources, section_from_json
from nvembed.steps.task import copy_report, task

if TYPE_CHECKING:
    from nvembed.evaluation.contamination import Contamination


def evaluate(
    candidate: str,
    evaluation: str,
    model: str,
    resources: str,
    eval_sets: str,
    adapters: Mapping[str, str],
    results: str,
) -> None:
    """One candidate on its share of the tasks.

    `candidate` is an item of `evaluation.plan.plan_items`: `stage2`, or `stage2 1/3`. `adapters` holds every trained
    stage; the candidate picks its own.
    """
    from nvembed.evaluation import evaluate as run_evaluation
    from nvembed.evaluation.plan import read_item, task_name

    section = section_from_json(Evaluation, evaluation)
    with task(task_name(candidate), section.model_dump(mode="json"), made=[results]) as run:
        name, number, of = read_item(candidate)
        adapter = adapters.get(name)
        run_evaluation(
            name,
            section,
            section_from_json(Model, model),
            section_from_json(Resources, resources),
            Path(eval_sets),
            Path(adapter) if adapter else None,
            Path(results),
            share=(number, of),
        )
        run.log_metrics(read_manifest(results).headline)
        run.log_folder(Path(results))


def _contamination(section: Evaluation, eval_sets: Path, made: Mapping[str, str]) -> Contamination | None:
    """What stands of the held-out texts in the training data, where these are at hand."""
    from nvembed.evaluation.contamination import find_contamination

    return find_contamination(eval_sets, Path(made["prepare_data"]), section.splits) if "prepare_data" in made else None


def compare_models(
    evaluation: str,
    registration: str,
    resources: str,
    eval_sets: str,
    results: Sequence[str],
    made: Mapping[str, str],
    comparison: str,
    report: str | None = None,
) -> None:
    """All candidates and the present champion side by side, with the verdict; headline numbers go to the parent run.

    Args:
        results: evaluation folders; shards of one candidate are put together.
        made: task name → folder of what came before. A task served from cache is thereby linked to this run too.
        comparison: where the table, picture and verdict go.
    """
    from nvembed import registry, tracking
    from nvembed.evaluation import compare
    from nvembed.evaluation.headline import challenger_numbers
    from nvembed.evaluation.shards import whole_folders
    from nvembed.evaluation.verdict import sentence

    section = section_from_json(Evaluation, evaluation)
    names = section_from_json(Registration, registration)
    with task("compare_models", names.model_dump(mode="json")) as run:
        measured = whole_folders([Path(folder) for folder in results])
        machine = section_from_json(Resources, resources)
        champion = registry.champion_results(names, section, machine, Path(eval_sets), measured)
        folders = {name: Path(folder) for name, folder in made.items()}
        parts = [Path(folder) for folder in results if Path(folder) not in measured]  # of joined shards: what they took
        compared = compare(
            section,
            names,
            measured,
            Path(comparison),
            champion=champion,
            made=[*folders.values(), *parts],
            run=tracking.pipeline_run_id() or "",
            contamination=_contamination(section, Path(eval_sets), made),
            ledger=state_folder("judgements", digest_text(names.name)),
        )
        for folder in measured:
            folders[f"evaluate_{read_manifest(folder).extra['candidate']}"] = folder
        folders["compare_models"] = Path(comparison)
        tracking.log_headlines(
            tracking.pipeline_run_id(),
            folders,
            eval_sets,
            first=challenger_numbers(compared),
            verdict=sentence(compared["verdict"]) if compared["challenger"] else "",
        )
        run.log_folder(Path(comparison))
        copy_report(Path(comparison), report)
