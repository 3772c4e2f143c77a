"""Bad input is met here, before anything is written: by `nvembed run` and again by the first task."""

from __future__ import annotations

from collections.abc import Sequence

from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.recipe import Data, Evaluation, Recipe
from nvembed.steps.places import whole_path
from nvembed.steps.synthetic import has_documents_alone, has_synthetic_sets, resolved_synthesis
from nvembed.synthesis import RETRIEVAL

MEASURED = ("retrieval", "classification", "clustering")
"""Task types that Python's documentation gives eval sets for; a user's file gives retrieval alone."""


def check_recipe(recipe: Recipe) -> Recipe:
    """The recipe with the content digests of its models and data written in, ready to be handed on.

    A changed file, backbone or teacher thereby changes a section, and so is a cache miss.

    Raises:
        UserError: a backbone that is unknown, missing or too short for `max_length`; data that cannot be used; a
            recipe for a GPU on a machine without one, or one whose last tasks would find nothing to judge by.
    """
    from nvembed import data, modeling
    from nvembed.mining.teachers import check_mining
    from nvembed.training.settings import check_settings

    recipe = _gated_by_what_there_is(recipe)
    evaluation = resolved_evaluation(recipe)
    _check_what_is_measured(recipe)
    _check_device(recipe)
    if not _fits_the_processor(recipe):
        recipe = shortened(recipe)
    modeling.check_section(recipe.model)
    for name in ("stage1", "stage2"):
        check_settings(name, getattr(recipe, name), recipe.model, recipe.resources)
    model = recipe.model.model_copy(update={"digest": modeling.backbone_digest(recipe.model)})
    mining = check_mining(recipe.mining)
    source = _with_whole_paths(recipe.data)
    synthesis = resolved_synthesis(recipe, mining)
    digest = synthesis.digest if synthesis.alone else data.check_source(source).digest
    source = source.model_copy(update={"digest": digest})
    found = {"model": model, "mining": mining, "data": source, "synthesis": synthesis, "evaluation": evaluation}
    return recipe.model_copy(update=found)


def resolved_evaluation(recipe: Recipe) -> Evaluation:
    """The section with whole paths and the digests of one's own sets in it, and what the stages are trained on.

    Raises UserError for benchmarks, tasks, types and languages that are not known, and sets that cannot be read.
    """
    from nvembed.evaluation.airbench import chosen_sets
    from nvembed.evaluation.in_domain import trained_on
    from nvembed.evaluation.own_sets import own_digest, read_own
    from nvembed.evaluation.selection import choose_tasks

    section = recipe.evaluation
    if not section.has_benchmarks:
        return section
    choose_tasks(section)
    own = {}
    for name, one in section.own.items():
        whole = one.model_copy(update={"path": whole_path(one.path)})
        own[name] = whole.model_copy(update={"digest": own_digest(name, whole)})
    read_own(own)
    air = section.air_bench
    if air is not None:
        chosen_sets(air)
        air = air.model_copy(update={"mirror": whole_path(air.mirror)})
    return section.model_copy(update={"own": own, "air_bench": air, "trained_on": trained_on(recipe.data)})


def _gated_by_what_there_is(recipe: Recipe) -> Recipe:
    """The recipe with the gate on the synthetic retrieval set where there is no other."""
    gate = recipe.registration.gate_task
    if not has_documents_alone(recipe.synthesis, recipe.data) or gate != "retrieval":
        return recipe
    note(f"there is no data but documents: the model is judged by {RETRIEVAL}, queries that language models wrote")
    return recipe.model_copy(update={"registration": recipe.registration.model_copy(update={"gate_task": RETRIEVAL})})


def _with_whole_paths(data: Data) -> Data:
    """The section with the local paths in it absolute, since a task runs in another folder."""

    tables = {
        name: source.model_copy(update={"path": whole_path(source.path)}) for name, source in data.sources.items()
    }
    return data.model_copy(
        update={"path": whole_path(data.path), "hub_mirror": whole_path(data.hub_mirror), "sources": tables}
    )


def _check_what_is_measured(recipe: Recipe) -> None:
    """Raises UserError for what would otherwise end the run behind its training, in evaluation or at the gate."""
    splits, candidates = recipe.evaluation.splits, recipe.evaluation.candidates
    if not splits:
        raise UserError("evaluation.splits is empty: nothing would be measured; give [test] or [dev, test]")
    alone = has_documents_alone(recipe.synthesis, recipe.data)
    if recipe.data.source == "mix":
        _check_what_a_mix_measures(recipe)
    elif alone:
        for split in splits:
            if not getattr(recipe.synthesis.held_out, split):
                raise UserError(
                    f"evaluation.splits names {split}, but synthesis.held_out.{split} is 0; raise it or leave it out"
                )
    elif "dev" in splits and not recipe.data.dev_fraction:
        raise UserError(
            "evaluation.splits names dev, but data.dev_fraction is 0; raise it or set evaluation.splits=[test]"
        )
    if "stage2" not in candidates or len(set(candidates)) < len(candidates):
        raise UserError(
            f"evaluation.candidates is {', '.join(candidates) or 'empty'}: name each once, and stage2 among them, "
            "which is the model that is registered"
        )
    measured = [task for task in MEASURED if task in recipe.data.task_types]
    tasks = ["retrieval"] if recipe.data.source in ("file", "mix") else measured
    if has_synthetic_sets(recipe.synthesis):
        tasks = [RETRIEVAL] if alone else [*tasks, RETRIEVAL]
    _check_gate(recipe, [*tasks])


def _check_gate(recipe: Recipe, of_data: Sequence[str]) -> None:
    """Raises UserError for a gate or guard that names a task that will not be measured."""
    from nvembed.evaluation.selection import choose_tasks

    gate, section = recipe.registration, recipe.evaluation
    named = [*([] if gate.gate_type is not None else [gate.gate_task]), *(gate.guard_tasks or [])]
    unknown = [task for task in named if task not in of_data and task not in section.own]
    if not unknown or section.air_bench is not None:  # the names of AIR-Bench's sets are known where they are read
        return
    unknown = sorted(set(unknown) - {task.name for task in choose_tasks(section)})
    if unknown:
        which = "gate_task is" if unknown[0] == gate.gate_task else "guard_tasks names"
        raise UserError(
            f"registration.{which} {unknown[0]!r}, but this data gives the tasks "
            f"{', '.join([*of_data, *section.own]) or 'none'}; name one of these, mean or mean:<type>, or add it to "
            "data.task_types or evaluation.tasks"
        )


def _check_what_a_mix_measures(recipe: Recipe) -> None:
    if "test" in recipe.evaluation.splits:
        raise UserError("evaluation.splits names test, but a mix holds out dev queries alone; give [dev]")
    if not recipe.data.dev_queries:
        raise UserError("data.dev_queries is 0: nothing would be measured on this mix; give some, 50 say")
    if not any(source.task_type == "retrieval" for source in recipe.data.sources.values()):
        raise UserError("data.sources: no source is of task_type retrieval, so there are no dev queries to hold out")
    if recipe.synthesis.enabled and not any(source.synthesis for source in recipe.data.sources.values()):
        raise UserError(
            "synthesis.enabled is true, but no source of the mix stands for what it writes; add one to data.sources: "
            "{synthetic: {synthesis: true, stages: [1, 2]}}"
        )
    from nvembed.data.adapters.mix import left_out

    read = recipe.data.sources.keys() - left_out(recipe.data).keys()
    for number in (1, 2):
        if not read.intersection(recipe.data.of_stage(number)):
            raise UserError(
                f"data.sources: stage {number} is left without examples, since no source that is read has {number} in "
                "its stages; add it to one's"
            )


def _check_device(recipe: Recipe) -> None:
    if recipe.resources.device != "cuda" or recipe.resources.launcher == "trainjob":
        return  # a job's nodes are other machines than this one
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f"recipe {recipe.name}: resources.device is cuda, but this machine has no usable GPU; "
            "submit it to a cluster (`nvembed submit`) or run with --set resources.device=cpu"
        )


def _fits_the_processor(recipe: Recipe) -> bool:
    """False where bf16 was left to the machine and a CPU without its instructions has to do the work."""
    import torch

    from nvembed.modeling import resolve_precision

    elsewhere = recipe.resources.launcher == "trainjob" and recipe.resources.accelerators > 0
    gpu = elsewhere or (recipe.resources.device != "cpu" and torch.cuda.is_available())
    return gpu or recipe.model.precision != "auto" or resolve_precision("auto", torch.device("cpu")) == "bfloat16"


def shortened(recipe: Recipe) -> Recipe:
    """The recipe with `steps_without_bf16` for steps in the stages that have it; says so."""
    stages = {name: getattr(recipe, name) for name in ("stage1", "stage2")}
    wanted = {name: stage.steps_without_bf16 for name, stage in stages.items() if stage.steps_without_bf16}
    if not wanted:
        return recipe
    said = ", ".join(f"{name}.steps {stages[name].steps} -> {steps}" for name, steps in wanted.items())
    note(f"this processor has no bf16 instructions, so the recipe shortens itself: {said}")
    changed = {name: stages[name].model_copy(update={"steps": steps}) for name, steps in wanted.items()}
    return recipe.model_copy(update=changed)
