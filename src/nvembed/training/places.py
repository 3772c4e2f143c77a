"""Where ranks run: what a recipe asks of a machine, held against the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nvembed.core.errors import UserError
from nvembed.training.launch import cpu_cores

if TYPE_CHECKING:
    from nvembed.recipe import Resources, Stage


def check_ranks(stage: Stage, resources: Resources) -> None:
    """Raise UserError for ranks that no machine could give, or that a batch cannot feed."""
    if resources.nodes > 1 and resources.launcher == "pod":
        raise UserError(
            f"resources.nodes is {resources.nodes}, but resources.launcher is pod, which trains on one; submit the "
            "run to a cluster with resources.launcher=trainjob, or set nodes to 1"
        )
    ranks = resources.processes * resources.nodes
    if ranks > stage.batch_size:
        what = "processes" if resources.nodes == 1 else "processes × resources.nodes"
        raise UserError(f"resources.{what} is {ranks}, above batch_size {stage.batch_size}; lower one of them")


def device_here(resources: Resources) -> str:
    """`cpu` or `cuda`. Raises UserError for what this machine cannot do."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if resources.device == "cuda" and gpus == 0:
        raise UserError("resources.device is cuda, but this machine has no usable GPU; set it to auto or cpu")
    device = "cpu" if resources.device == "cpu" or gpus == 0 else "cuda"
    if device == "cuda" and resources.processes > gpus:
        raise UserError(f"resources.processes is {resources.processes}, but this machine has {gpus} GPUs; lower it")
    return device


def threads_of(resources: Resources) -> int:
    """CPU threads of a rank here."""
    return resources.threads or max(1, cpu_cores() // resources.processes)
