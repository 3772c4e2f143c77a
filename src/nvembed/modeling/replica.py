"""A bf16 copy of a float32 backbone, for encoding where bf16 is faster.

Autocast alone would do, but it turns weights and activations to and fro in every layer, and keeps sums and norms in
float32, which on a CPU takes as long as the products it saves. A copy computes as a checkpoint stored in bf16 does.
The pooling's block stays as it is, under autocast: its fold is multiplied out in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from nvembed.modeling.model import NVEmbedModel

LARGEST_BYTES = 4 << 30  # of float32 weights: a larger model's copy may not fit beside it, and gains less by it


def weights_key(parameters: Iterable[torch.Tensor]) -> tuple[Any, ...]:
    """Differs when a parameter was replaced, moved, cast, or written to by torch's own operations."""
    return tuple((p.data_ptr(), None if p.is_inference() else p._version, p.dtype, p.device) for p in parameters)


def in_half(model: NVEmbedModel) -> NVEmbedModel:
    """The model around a bf16 copy of its backbone, kept until the weights change; or the model itself.

    Itself where the backbone is no float32 one, or a large one. Call it under bf16 autocast, without gradients.
    """
    parameters = list(model.backbone.parameters())
    if any(p.dtype != torch.float32 or p.is_meta for p in parameters):
        return model
    if sum(p.numel() * p.element_size() for p in parameters) > LARGEST_BYTES:
        return model
    key = weights_key(parameters)
    if model.half_backbone is None or model.half_backbone[0] != key:
        with torch.inference_mode(False), torch.no_grad():
            cast: dict[int, Any] = {
                id(p): nn.Parameter(p.detach().to(torch.bfloat16), requires_grad=False) for p in parameters
            }
            # what is not a parameter stays in float32: rotary frequencies lose positions in bf16
            model.half_backbone = (key, copy.deepcopy(model.backbone, cast).eval())
    view = copy.copy(model)
    view._modules = {**model._modules, "backbone": model.half_backbone[1]}
    return view
