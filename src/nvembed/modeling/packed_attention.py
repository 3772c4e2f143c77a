"""The attention function that packed texts go through, registered with transformers by name.

It does what transformers' own `sdpa` does, unless the call carries a `Packed`, which the backbone's layers hand on
among their keyword arguments: then each text attends to itself alone. On CUDA in half precision that is one call of
`torch.nn.attention.varlen`; elsewhere, and for what that kernel cannot do, attention run by run of equally long texts.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

NAME = "nvembed"
PRODUCTS_TOKENS = 512  # longer texts of a packed batch keep the fused kernel, for the memory's sake
LARGEST_HEAD = 256  # of FlashAttention's kernels, which also want a multiple of 8
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Packed:
    """Where the texts of a packed batch lie.

    Attributes:
        lengths: tokens of each text.
        bounds: (texts + 1,) int32 on the batch's device, where each text begins, and the end.
    """

    lengths: tuple[int, ...]
    bounds: Tensor

    @classmethod
    def of(cls, lengths: Tensor, device: torch.device) -> Packed:
        """From the lengths of the texts, (n,) int."""
        sizes = tuple(lengths.tolist())
        bounds = torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32)
        return cls(sizes, bounds.to(device, non_blocking=True))

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(self.lengths)


# What the mask function below must know; layers get it among their arguments, so that recomputing one in a backward
# pass (gradient checkpointing), long after, finds it too.
_current: ContextVar[Packed | None] = ContextVar("nvembed_packed", default=None)


@contextlib.contextmanager
def packing(packed: Packed) -> Iterator[None]:
    """Within this, `packed_mask` knows of the packed batch."""
    token = _current.set(packed)
    try:
        yield
    finally:
        _current.reset(token)


@cache
def register() -> None:
    """Make both functions known to transformers, once."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, packed_mask)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    nvembed_packed: Packed | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (batch, heads, tokens, width) in, (batch, tokens, heads, width) out.

    Args:
        attention_mask: padded, as transformers makes it for `sdpa`; packed, what `packed_mask` gave.
        nvembed_packed: present for a packed batch of one row; each text then attends to itself alone.
        options: dropout, scaling, is_causal, softcap, position_bias, as transformers' `sdpa` knows them.
    """
    if nvembed_packed is not None:
        if varlen_serves(query, key, value, attention_mask, options):
            return varlen(module, query, key, value, nvembed_packed, options), None
        return by_runs(module, query, key, value, attention_mask, nvembed_packed, options), None
    if _current.get() is not None:
        raise RuntimeError(f"{type(module).__name__} is not told that its batch is packed: texts would see each other")
    return plain(module, query, key, value, attention_mask, options), None


def packed_mask(
    batch_size: int, q_length: int, kv_length: int, *, attention_mask: Tensor | None = None, **rule: Any
) -> Tensor | None:
    """transformers' mask interface: its `sdpa` mask; for a packed batch the rule within one text, the longest.

    None where each token attends to all of its text, or to all before it. Otherwise (1, 1, longest, longest) bool,
    say of a sliding window: a rule of positions, so that a shorter text takes the upper left corner.
    """
    from transformers.masking_utils import sdpa_mask

    packed = _current.get()
    if packed is None:
        return sdpa_mask(batch_size, q_length, kv_length, attention_mask=attention_mask, **rule)
    return sdpa_mask(1, packed.longest, packed.longest, attention_mask=None, **rule)


def plain(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """Attention over rows of like length, by transformers' own `sdpa`; it knows no capped scores, so those are here."""
    if options.get("softcap") is not None:
        return products(module, query, key, value, mask, options)
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, mask, **options)[0]


def products(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """Attention by two products and a softmax, with scores capped if asked: `cap·tanh(score / cap)`.

    (Gemma 2, arXiv 2408.00118, section 2.) It knows no biases. It holds tokens² numbers a head, but on a CPU its
    backward pass is much faster than the fused kernel's.
    """
    count, heads, tokens, width = query.shape
    groups = heads // key.shape[1]  # heads that share keys go through one product
    scaling, cap = options.get("scaling"), options.get("softcap")
    query = (query * (width**-0.5 if scaling is None else scaling)).reshape(count, -1, groups * tokens, width)
    scores = query @ key.transpose(2, 3)
    if cap is not None:
        scores = torch.tanh(scores / cap) * cap
    if mask is None and is_causal(module, options):
        mask = torch.ones(tokens, key.shape[2], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        hidden = ~mask if mask.ndim < 4 else ~mask.unsqueeze(2)
        scores = scores.unflatten(2, (groups, tokens)).masked_fill(hidden, torch.finfo(scores.dtype).min).flatten(2, 3)
    weights = scores.softmax(-1)
    weights = torch.nn.functional.dropout(weights, p=options.get("dropout") or 0.0, training=module.training)
    return (weights @ value).view(count, heads, tokens, width).transpose(1, 2)


def is_causal(module: torch.nn.Module, options: dict[str, Any]) -> bool:
    """What transformers' `sdpa` goes by: the call's own word, else the module's."""
    asked = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if asked is None else asked)


def by_runs(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    packed: Packed,
    options: dict[str, Any],
) -> Tensor:
    """Attention text by text, neighbours of equal length together: any device, dtype and rule, with gradients."""
    bias = options.get("position_bias")
    quick = query.device.type == "cpu" and module.training and bias is None
    counted = [(length, sum(1 for _ in run)) for length, run in itertools.groupby(packed.lengths)]
    runs = counted if bias is None else [(length, 1) for length in packed.lengths]
    sizes = [length * count for length, count in runs]
    outputs: list[Tensor] = []
    start = 0
    # split, not slices: each slice's backward pass would fill a gradient of the whole batch
    for (length, count), *parts in zip(runs, *(part[0].split(sizes, 1) for part in (query, key, value)), strict=True):
        rows = [part.unflatten(1, (count, length)).transpose(0, 1) for part in parts]
        if bias is not None:
            end = start + length
            start, options = end, {**options, "position_bias": bias[..., start:end, start:end]}
        seen = None if mask is None else mask[..., :length, :length]
        attend = products if quick and length <= PRODUCTS_TOKENS else plain
        outputs.append(attend(module, rows[0], rows[1], rows[2], seen, options).flatten(0, 1))
    return torch.cat(outputs).unsqueeze(0)


def varlen_serves(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Whether `torch.nn.attention.varlen` can do this call: CUDA, half precision, no rule but causal or none."""
    head = query.shape[-1]
    return (
        query.is_cuda
        and compute_dtype(value) in HALF
        and mask is None
        and not options.get("dropout")
        and options.get("softcap") is None
        and options.get("position_bias") is None
        and head == key.shape[-1] == value.shape[-1]
        and kernel_takes(head, query.device)
    )


def kernel_takes(head: int, device: torch.device) -> bool:
    """Whether the varlen kernel of this PyTorch takes heads of this width on this GPU (Ampere or later)."""
    fits = head <= LARGEST_HEAD and head % 8 == 0
    return fits and has_varlen() and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def has_varlen() -> bool:
    """Whether this PyTorch has `varlen_attn` with what we ask of it (2.10 had it with less)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"scale", "window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What a matrix product of this tensor computes in: autocast's dtype where it is on (it leaves varlen alone)."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def varlen(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, packed: Packed, options: dict[str, Any]
) -> Tensor:
    """One call of FlashAttention over all texts of a packed batch."""
    from torch.nn.attention.varlen import varlen_attn

    dtype = compute_dtype(value)
    query, key, value = (part[0].transpose(0, 1).to(dtype) for part in (query, key, value))
    mixed = varlen_attn(
        query,
        key,
        value,
        packed.bounds,
        packed.bounds,
        packed.longest,
        packed.longest,
        scale=options.get("scaling"),
        window_size=(-1, 0) if is_causal(module, options) else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(mixed, Tensor)
    return mixed.unsqueeze(0)
