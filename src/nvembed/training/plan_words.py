"""What a plan says of itself in words: doubtful settings, and why something does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nvembed.recipe import Model
    from nvembed.training.machine import Machine
    from nvembed.training.plan import Load, Plan


def doubts(zero: int, checkpointing: bool, cached: bool, machine: Machine, given: int | None, load: Load) -> list[str]:
    """What makes no sense in settings that nevertheless work, a line each."""
    found = []
    if zero and machine.ranks == 1:
        found.append(f"zero_stage is {zero}, but one rank has nobody to share with: zero_stage=0 does the same, faster")
    if checkpointing and cached:
        found.append(
            "gradient checkpointing and gradient cache together compute every text three times forward; raise "
            "micro_batch_tokens or set gradient_checkpointing=false if memory allows (auto finds out)"
        )
    if given is not None and given < load.longest:
        found.append(f"micro_batch_tokens is {given}, below one text of {load.longest} tokens, which is encoded anyway")
    return found


def reason(plan: Plan, model: Model) -> str:
    """By how much a plan misses, and which keys may help."""
    mends = []
    if plan.zero_stage < 3 and plan.machine.ranks > 1 and model.quantization == "none":
        mends.append(f"{plan.stage}.zero_stage=auto")
    if not plan.gradient_checkpointing:
        mends.append(f"{plan.stage}.gradient_checkpointing=auto")
    if plan.micro_batch_tokens > plan.load.longest:
        mends.append(f"{plan.stage}.micro_batch_tokens=auto")
    if not model.lora.enabled:
        mends.append("model.lora.enabled=true")
    elif model.quantization == "none" and plan.machine.device == "cuda":
        mends.append("model.quantization=nf4")
    if model.pooling == "latent" and model.latent.train == "full":
        mends.append("model.latent.train=lora")
    if plan.machine.device == "cuda" or plan.machine.local_ranks == 1:
        mends.append("more memory")
    else:
        mends.append("fewer resources.processes")
    need, have = plan.memory_needed / 1e9, plan.memory_available / 1e9
    largest = max(plan.memory, key=lambda part: plan.memory[part])
    return (
        f"{plan.stage} does not fit: a rank needs {need:.1f} GB (most of it {largest}), but {have:.1f} GB are there "
        f"to plan with; what may help: {', '.join(mends)}"
    )
