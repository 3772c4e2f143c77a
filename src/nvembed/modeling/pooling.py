"""From token states to one vector a text. Always in float32: sums over many tokens lose digits in bf16."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["latent", "mean", "last", "self-attention", "cls"]
AVERAGED = ("latent", "mean", "self-attention")


def pool(hidden: Tensor, attention_mask: Tensor, pool_mask: Tensor, pooling: Pooling) -> Tensor:
    """(batch, tokens, dim) → (batch, dim) float32, not normalised.

    `latent`, `self-attention` and `mean` average the pooled tokens, `last` takes the last pooled one, `cls` the first
    attended one. A row without pooled tokens gives zeros.
    """
    chosen = (pool_mask.bool() & attention_mask.bool()).to(hidden.device)
    hidden = hidden.float()
    if pooling in AVERAGED:
        weights = chosen.unsqueeze(-1).float()
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
    places = torch.arange(hidden.shape[1], device=hidden.device)
    if pooling == "last":
        index = torch.where(chosen, places, 0).amax(1)
    else:
        index = attention_mask.to(hidden.device).long().argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]


def pool_packed(hidden: Tensor, lengths: Tensor, pool_mask: Tensor, pooling: Pooling) -> Tensor:
    """What `pool` gives, of packed texts: (tokens, dim) → (texts, dim) float32, not normalised.

    `lengths` (texts,) int64 and `pool_mask` (tokens,) lie on the device of `hidden`.
    """
    if pooling in AVERAGED:
        weights = pool_mask.float().unsqueeze(-1)
        sums = torch.segment_reduce(hidden.float() * weights, "sum", lengths=lengths, axis=0)
        counts = torch.segment_reduce(weights, "sum", lengths=lengths, axis=0)
        return sums / counts.clamp(min=1)
    index = lengths.cumsum(0) - lengths  # each text's first token
    if pooling == "last":
        places = torch.arange(len(hidden), device=hidden.device)
        text = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths, output_size=len(hidden))
        index = index.scatter_reduce(0, text, torch.where(pool_mask, places, 0), "amax")
    return hidden[index].float()
