"""Learning rate over steps, and which parameters get which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from nvembed.recipe import Stage


def learning_rate_factor(step: int, *, steps: int, warmup_steps: int) -> float:
    """Share of the peak rate at `step` (from 0): up linearly over the warm-up, then down linearly to 0 after the last.

    No step has rate 0: the first of `w` warm-up steps has 1/w, the last of all has 1/(steps − w).
    """
    warmup = min(warmup_steps, max(steps - 1, 0))
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(steps - warmup, 1)


def parameter_groups(named: dict[str, torch.nn.Parameter], stage: Stage, *, is_latent: Any) -> list[dict[str, Any]]:
    """Optimiser groups of the trainable parameters.

    The latent block may have a learning rate of its own. Biases and norms (vectors) are not decayed. `peak` is the
    group's highest rate; `lr` is set anew before each step and starts at 0.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in named.items():
        peak = (stage.latent_learning_rate or stage.learning_rate) if is_latent(name) else stage.learning_rate
        decay = stage.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((peak, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": 0.0, "peak": peak, "weight_decay": decay}
        for (peak, decay), parameters in groups.items()
    ]
