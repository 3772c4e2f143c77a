"""Low-rank adapters on the backbone, by peft's own layers put into the model in place, so that names stay short."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nvembed.recipe import LoRA


def add_lora(backbone: PreTrainedModel, lora: LoRA, seed: int) -> None:
    """Put adapters on the backbone's linear layers and freeze all else. The adapted backbone computes the same at first.

    `all-linear` means every linear layer of the backbone. Adapters keep the base weights' dtype. Raises UserError if
    a target names no linear layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    targets = linear if lora.targets == "all-linear" else list(lora.targets)
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise UserError(f"model.lora.targets: {target!r} is no linear layer here; known: {', '.join(known)}")
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merge_lora(backbone: nn.Module) -> None:
    """Add the adapters to the base weights and take them out, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, module) for name, module in backbone.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in adapted:
        module.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, module.get_base_layer())
    if hasattr(backbone, "peft_config"):
        del backbone.peft_config
