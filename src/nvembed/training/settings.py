"""The settings that a machine decides: refused where they contradict each other, worked out where a recipe says `auto`.

What is worked out changes how a step is computed, not what: ranks, chunks and recomputation leave loss and gradients as
they are, up to rounding (and up to which random numbers LoRA's dropout draws, since each chunk has a seed of its own).
So a result is named by what the recipe says, `auto` included, and a run goes on from its checkpoint on a machine that
decides otherwise. One machine decides alike each time: only its total memory counts, and lengths come from a fixed
sample.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.training.examples import stage_rows
from nvembed.training.machine import this_machine
from nvembed.training.plan import Plan, make_plan

if TYPE_CHECKING:
    from nvembed.recipe import Model, Resources, Stage

KEYS = ("micro_batch_tokens", "zero_stage", "gradient_checkpointing")
_SAMPLE = 200


def check_settings(name: str, stage: Stage, model: Model, resources: Resources) -> None:
    """Raise UserError for settings that contradict each other, with what mends it; a useless one is told of.

    ZeRO on one rank is of no use, but no error: a run that several ranks began may go on on one.
    """
    ranks = resources.processes * resources.nodes
    if model.quantization != "none" and stage.zero_stage == 3:
        raise UserError(
            f"model.quantization is {model.quantization}, but {name}.zero_stage is 3, which cannot share out weights "
            "of 4 bits; set zero_stage to 2 or less, or quantization to none"
        )
    if stage.zero_stage not in (0, "auto") and ranks == 1:
        note(f"{name}.zero_stage is {stage.zero_stage}, but one rank has nobody to share with: 0 does the same, faster")


def settle(
    name: str, stage: Stage, model: Model, resources: Resources, device: str, dataset: Path
) -> tuple[Mapping[str, Any], Plan | None]:
    """The stage's section as JSON, `auto` replaced by what this machine decides; and the plan, where there was one.

    Raises UserError if the stage does not fit.
    """
    section: dict[str, Any] = stage.model_dump(mode="json")
    if "auto" not in {section[key] for key in KEYS}:
        return section, None
    machine = this_machine(resources, device)
    plan = make_plan(name, stage, model, machine, lengths=token_lengths(name, model, stage, dataset))
    if not plan.fits:
        raise UserError(plan.why)
    note(f"{name} on this machine: {describe(plan)}")
    return section | plan.settings(), plan


def describe(plan: Plan) -> str:
    """A plan's settings in a line."""
    said = [f"{key} {str(value).lower()}" for key, value in plan.settings().items()]
    said.append(f"gradient cache {'on' if plan.gradient_cache else 'off'}")
    return f"{', '.join(said)}; {plan.memory_needed / 1e9:.1f} of {plan.memory_available / 1e9:.1f} GB a rank"


def token_lengths(name: str, model: Model, stage: Stage, dataset: Path) -> tuple[float, float]:
    """Tokens of a query and of a document, on average over a fixed sample of the stage's examples in a dataset.

    Raises UserError if the stage has none there.
    """
    from nvembed.data import open_examples
    from nvembed.modeling.checks import text_rule_of

    table = open_examples(dataset)
    rows = stage_rows(name, stage, dataset, table).rows
    some = [table[row] for row in random.Random(0).sample(rows.tolist(), min(_SAMPLE, len(rows)))]
    rule, totals = text_rule_of(model), [0, 0]
    documents = 0
    for example in some:
        (query,) = rule.tokenize([example.query], example.query_instruction, stage.query_max_length)
        own = [example.positive, *example.negatives[: stage.negatives]]
        found = rule.tokenize(own, example.document_instruction, stage.document_max_length)
        totals = [totals[0] + len(query.input_ids), totals[1] + sum(len(one.input_ids) for one in found)]
        documents += len(own)
    return totals[0] / max(1, len(some)), totals[1] / max(1, documents)
