"""Batches of tokenized texts by a token budget, and the precision and mode that a model computes them in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from nvembed.text import Tokenized

Precision = Literal["auto", "float32", "bfloat16"]
EVEN_SHARE = 0.8  # of a batch's longest text: what is shorter is uneven …
FULL_BATCH_TOKENS = 1024  # … and opens a new batch once the present one has this much


def collate(batch: Sequence[Tokenized], pad_token_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """`input_ids`, `attention_mask` (int64) and `pool_mask` (bool), each (texts, longest), padded on the right."""
    tokens, lengths, pooled = pack(batch)
    attended = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    input_ids = torch.full(attended.shape, pad_token_id, dtype=torch.long)
    pool_mask = torch.zeros(attended.shape, dtype=torch.bool)
    input_ids[attended], pool_mask[attended] = tokens, pooled
    return input_ids, attended.long(), pool_mask


def pack(batch: Sequence[Tokenized]) -> tuple[Tensor, Tensor, Tensor]:
    """Texts end to end: `input_ids` (tokens,) int64, `lengths` (texts,) int64 and `pool_mask` (tokens,) bool."""
    lengths = torch.tensor([len(item.input_ids) for item in batch])
    input_ids = torch.tensor([token for item in batch for token in item.input_ids], dtype=torch.long)
    pool_mask = torch.tensor([pooled for item in batch for pooled in item.pool_mask], dtype=torch.bool)
    return input_ids, lengths, pool_mask


def token_batches(lengths: Sequence[int], batch_tokens: int, *, packed: bool = False) -> list[list[int]]:
    """Indices of texts in batches of at most `batch_tokens` tokens (but always one text), longest texts first.

    `packed` counts the texts' own tokens. Otherwise a batch holds rows × longest row; then it is closed early rather
    than filled with texts much shorter than its longest, once it is large enough to keep the cores busy.
    """
    batches: list[list[int]] = []
    longest = held = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        added = lengths[index] if packed else longest
        uneven = not packed and held >= FULL_BATCH_TOKENS and lengths[index] < EVEN_SHARE * longest
        if batches and held + added <= batch_tokens and not uneven:
            batches[-1].append(index)
            held += added
        else:
            batches.append([index])
            longest = held = lengths[index]
    return batches


def tokens_held(lengths: Sequence[int], batches: Sequence[Sequence[int]], *, packed: bool = False) -> int:
    """Tokens of all batches together, padding included."""
    if packed:
        return sum(lengths[i] for batch in batches for i in batch)
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)


def resolve_precision(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """`auto`: bf16 where the device computes in it faster than in float32, by instruction set, else float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if cpu_has_bf16() else "float32"


def cpu_has_bf16() -> bool:
    """True where the processor multiplies bf16 itself (AMX or AVX512-BF16); elsewhere bf16 is slower than float32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") or capabilities.get("amx_tile"))


def autocast(
    precision: Literal["float32", "bfloat16"], device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast, or nothing."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode for the time being: dropout off, then as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
