"""Print the table of docs/cluster.md that says what each recipe needs of a cluster: `python scripts/sizing_table.py`.

Reckoned by what `nvembed train --plan` reckons with, for texts as long as the recipe allows; so hours are at the most,
as far as the assumed share of the GPU's data sheet holds. Evaluation, mining and data are not in them. Nothing is
downloaded.
"""

from __future__ import annotations

import functools
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # the shapes that are known: the table is the same with and without a network

from nvembed.modeling.sizes import Sizes, read_sizes
from nvembed.recipe import load_recipe
from nvembed.training.machine import described_machine
from nvembed.training.plan import Plan, make_plan

MACHINES = (  # recipe, changes, GPUs of a node, their memory, chip
    ("single-gpu", (), 1, "24GB", "L4"),
    ("single-gpu", (), 1, "80GB", "H100"),
    ("finetune-nvembed", (), 1, "80GB", "H100"),
    ("finetune-nvembed", ("model.quantization=nf4",), 1, "48GB", "L40S"),
    ("nvembed-v1", (), 8, "80GB", "H100"),
    ("nvembed-v2", (), 8, "80GB", "A100"),
    ("nvembed-v2", (), 8, "80GB", "H100"),
    ("nvembed-v2", ("resources.launcher=trainjob", "resources.nodes=4"), 8, "80GB", "H100"),
)
HEAD = (
    *("recipe", "GPUs", "GPU memory", "hours, stage 1 + 2", "a node's cores, memory"),
    *("checkpoints", "model cache", "node disk"),
)


@functools.cache
def _sizes(recipe: str, quantization: str) -> Sizes:
    return read_sizes(load_recipe(recipe, (f"model.quantization={quantization}",)).model)


def row(recipe: str, changes: tuple[str, ...], gpus: int, memory: str, chip: str) -> tuple[str, ...]:
    """What a recipe needs on a machine, in the order of `HEAD`."""
    checked = load_recipe(recipe, changes)
    machine = described_machine(gpus, memory, chip, checked.resources.nodes)
    sizes = _sizes(recipe, checked.model.quantization)
    stages = [("stage1", checked.stage1), ("stage2", checked.stage2)]
    plans = [make_plan(name, stage, checked.model, machine, sizes=sizes) for name, stage in stages]
    nodes = f"{checked.resources.nodes} × " if checked.resources.nodes > 1 else ""
    resources, disk = checked.resources, plans[0].disk
    told = " ".join((f"`{recipe}`", *(f"`--set {change}`" for change in changes)))
    return (
        told,
        f"{nodes}{gpus} × {chip} {memory}",
        f"{_gb(max(plan.memory_needed for plan in plans))} of {_gb(plans[0].memory_available)}",
        " + ".join(_hours(plan) for plan in plans),
        f"{resources.cpu}, {resources.memory}",
        _gb(sum(plan.disk["checkpoints"] for plan in plans)),
        _gb(disk["base weights"]),
        _gb(disk["registered model"] + 2 * disk["adapter"]),
    )


def table() -> str:
    """The rows as a Markdown table."""
    rows = [HEAD, ("---",) * len(HEAD), *(row(*machine) for machine in MACHINES)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _hours(plan: Plan) -> str:
    if not plan.fits:
        return "does not fit"
    assert plan.seconds is not None
    hours = plan.seconds / 3600
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.0f} GB" if size >= 1e10 else f"{size / 1e9:.1f} GB"


if __name__ == "__main__":
    print(table())
