"""Low-rank adapters on backbone and block, by peft's own layers put in place, so that names stay short."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nvembed.recipe import LoRA


def add_lora(backbone: PreTrainedModel, lora: LoRA, seed: int) -> None:
    """Put adapters on the backbone's linear layers and freeze all else. At first the backbone computes the same.

    `all-linear` means every linear layer of the backbone. Adapters keep the base weights' dtype. Raises UserError if
    a target names no linear layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    from nvembed.modeling.joined_lora import join_adapters

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
    join_adapters(backbone)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_" in name)


def add_block_lora(block: nn.Module, lora: LoRA, seed: int) -> None:
    """Put adapters on the linear layers of a pooling's block and freeze all else, latents, norms and biases too.

    Rank and alpha are the backbone's. There is no dropout: folded, the latent block's projections have no input to
    drop from, and both forms must give the same.
    """
    from peft import LoraConfig, inject_adapter_in_model

    from nvembed.modeling.block_lora import FoldingLoRA
    from nvembed.modeling.latent import OutProjection, QueryProjection

    linear = [name for name, module in block.named_modules() if isinstance(module, nn.Linear)]
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=linear)  # type: ignore[arg-type]
    config._register_custom_module({QueryProjection: FoldingLoRA, OutProjection: FoldingLoRA})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, block)
    for name, parameter in block.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merged_state(backbone: nn.Module) -> dict[str, Tensor]:
    """A backbone's or block's tensors by their own names, each adapter added to its weight; nothing is changed."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = {name: module for name, module in backbone.named_modules() if isinstance(module, BaseTunerLayer)}
    state: dict[str, Tensor] = {}
    for name, tensor in backbone.state_dict().items():
        if ".base_layer." not in name:
            if "lora_" not in name:
                state[name] = tensor
            continue
        layer, _, kind = name.partition(".base_layer.")
        if kind == "weight":
            with torch.no_grad():
                module: Any = adapted[layer]
                deltas = [module.get_delta_weight(adapter) for adapter in module.active_adapters]
                tensor = sum((delta.to(tensor.dtype) for delta in deltas), tensor)
        state[f"{layer}.{kind}"] = tensor
    return state
