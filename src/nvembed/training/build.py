"""From a job to the encoder that is trained."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nvembed.training.engine import Encoder
from nvembed.training.job import section

if TYPE_CHECKING:
    from nvembed.training.job import Job


def build_encoder(job: Job, device: torch.device) -> Encoder:
    """The model section's model, weights of `job.init` loaded, wrapped for the engine.

    Trained weights are float32. Where bfloat16 is computed in, frozen ones are bfloat16: all of them on a GPU, on a CPU
    those of linear layers, which autocast would turn into it anyway, and in every chunk anew.
    """
    from nvembed.modeling import NVEmbedModel
    from nvembed.modeling.batching import resolve_precision

    stage, model_section = section(job.stage), section(job.model)
    precision = resolve_precision(model_section.precision, device)
    low = precision == "bfloat16" and device.type == "cuda"
    dtype = torch.bfloat16 if low else torch.float32
    model = NVEmbedModel.from_section(model_section, job.init, device=device, dtype=dtype, trainable=True)
    if low:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if job.init:
            model.load_trainable(job.init)  # again, since its float32 weights were rounded the first time
    elif precision == "bfloat16":
        keep_frozen_in_half(model)
    set_dropout(model.backbone, stage.backbone_dropout)
    if stage.gradient_checkpointing:
        enable_checkpointing(model.backbone)
    return Encoder(model, precision)


def keep_frozen_in_half(model: nn.Module) -> None:
    """Turn frozen weights of linear layers into bfloat16: under autocast every result stays the same, to the bit."""
    for module in model.modules():
        if type(module) is nn.Linear and not any(p.requires_grad for p in module.parameters()):
            module.to(torch.bfloat16)


def enable_checkpointing(backbone: Any) -> None:
    """Have a backbone compute each layer again in the backward pass."""
    with warnings.catch_warnings():  # the method has a new name in transformers 5.23; our range begins before it
        warnings.simplefilter("ignore", FutureWarning)
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def set_dropout(backbone: nn.Module, share: float) -> None:
    """Set every dropout of a backbone but that of its LoRA adapters, whatever its configuration says.

    Models name it in two ways: `nn.Dropout` modules, and a number that their attention hands to the kernel.
    """
    for name, module in backbone.named_modules():
        if "lora_" in name:
            continue
        if isinstance(module, nn.Dropout):
            module.p = share
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = share
