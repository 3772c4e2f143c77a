"""How much of what the machine could compute a step makes use of: FLOPs of a step over the peak of its devices.

FLOPs of a step by the usual rules, N being the weights that a token is multiplied by (look-ups are none): a forward
pass takes 2N a token; a backward pass another 2N for the gradients of activations, as far down as anything is trained,
and 2N of the trained weights for their own gradients. So LoRA takes 4N and full training 6N; gradient cache and
gradient checkpointing, which run the forward pass twice, 2N more each. Attention adds 4 · layers · width for each pair
of tokens that see one another, and its backward pass twice that. Padding is no work: only real tokens count.

The latent block counts pooled tokens, in the form that the step takes (`LatentAttention.folded`); what it pays once a
call, its keys, values and fold, is left out.

The peak is measured: the best of some products of large matrices in the training precision.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from nvembed.core.artifacts import write_file

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel
    from nvembed.modeling.latent import LatentAttention
    from nvembed.text import Tokenized

_MEASURE_SECONDS = 0.3
_SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices: large enough to keep all units busy, small enough to be quick


@dataclass(frozen=True)
class Work:
    """What some texts ask for: their tokens, those of them that are pooled, and pairs of tokens within a text."""

    tokens: int
    pooled: int
    pairs: int

    @classmethod
    def of(cls, texts: Sequence[Tokenized]) -> Work:
        """Of tokenised texts."""
        lengths = [len(text.input_ids) for text in texts]
        return cls(sum(lengths), sum(sum(text.pool_mask) for text in texts), sum(n * n for n in lengths))


@dataclass(frozen=True)
class Cost:
    """FLOPs a unit of `Work`, once forward and once backward; the latent block's by its form."""

    token: tuple[float, float]
    pair: tuple[float, float]
    pooled_plain: tuple[float, float] = (0.0, 0.0)
    pooled_folded: tuple[float, float] = (0.0, 0.0)

    def flops(self, work: Work, *, forward_passes: int, folded: bool | None) -> float:
        """Of one step over `work`: some forward passes and a backward pass."""
        pooled = self.pooled_folded if folded else self.pooled_plain
        units = ((work.tokens, self.token), (work.pairs, self.pair), (work.pooled, pooled))
        return sum(count * (forward_passes * forward + backward) for count, (forward, backward) in units)


def cost_of(model: NVEmbedModel) -> Cost:
    """A model's costs. Sizes are read off the layers, so sharded weights (ZeRO 3) do not matter."""
    from nvembed.modeling.checks import text_config

    token = _linear(model.backbone)
    if model.self_attention is not None:
        token = _added(token, _linear(model.self_attention))
    config = text_config(model.backbone.config)
    heads = getattr(config, "num_attention_heads", 0)
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1))
    pair = 4.0 * getattr(config, "num_hidden_layers", 0) * width
    if model.spec.attention == "causal":
        pair /= 2
    trains = any(p.requires_grad for p in model.backbone.parameters())
    pairs = (pair, 2 * pair if trains else 0.0)
    if model.latent is None:
        return Cost(token, pairs)
    return Cost(token, pairs, _block(model.latent, folded=False, below=trains), _block(model.latent, True, trains))


def _linear(module: nn.Module) -> tuple[float, float]:
    """Forward and backward FLOPs a token of all linear layers of a module that every token passes."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    sizes = [(layer.in_features * layer.out_features, layer.weight.requires_grad) for layer in layers]
    forward, trained = 2.0 * sum(size for size, _ in sizes), 2.0 * sum(size for size, own in sizes if own)
    return forward, (forward + trained if trained else 0.0)


def _block(block: LatentAttention, folded: bool, below: bool) -> tuple[float, float]:
    """The latent block's a pooled token; `below`: something under it is trained, so gradients pass through it."""
    attend, feed = block.cross_attend_blocks
    attention: Any = attend.fn
    dim, inner, latents = attention.to_q.in_features, attention.to_q.out_features, block.num_latents
    products = 2 * attention.heads * latents * dim if folded else 2 * inner * (dim + latents)
    trained = block.latents.requires_grad
    fed, fed_backward = _linear(feed)
    forward = 2.0 * products
    # Folded or not, both factors of each product have gradients if the block is trained.
    backward = forward * (below + trained) if trained else forward * below
    return forward + fed, backward + (fed_backward or fed * below)


def _added(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return one[0] + other[0], one[1] + other[1]


def peak_flops(device: torch.device, precision: Literal["float32", "bfloat16"], cache: Path) -> float:
    """FLOP/s of one rank's device in a precision, measured once and kept in the file `cache` by device and threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    key = f"{device.type} {name} {precision}"
    try:
        known: dict[str, float] = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = _measure(device, torch.bfloat16 if precision == "bfloat16" else torch.float32)
        write_file(cache, json.dumps(known, indent=2) + "\n")
    return known[key]


@torch.no_grad()
def _measure(device: torch.device, dtype: torch.dtype) -> float:
    """The best of as many products as fit into some tenths of a second, after one that does not count."""
    side = _SIDE[device.type]
    one, other = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    best, end = float("inf"), None
    while end is None or time.monotonic() < end:
        began = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if end is None:
            end = time.monotonic() + _MEASURE_SECONDS
        else:
            best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def memory_megabytes(device: torch.device) -> int:
    """The most that this rank has held: of the GPU's memory as allocated by PyTorch, else of the process's own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held >> (20 if sys.platform == "darwin" else 10)
