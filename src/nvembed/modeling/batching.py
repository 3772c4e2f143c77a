"""Batches of tokenized texts by a token budget, and the precision and mode that a model computes them in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from nvembed.text import Tokenized

Precision = Literal["auto", "float32", "bfloat16"]


def collate(batch: Sequence[Tokenized], pad_token_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """`input_ids`, `attention_mask` (int64) and `pool_mask` (bool), each (texts, longest), padded on the right."""
    width = max(len(item.input_ids) for item in batch)
    input_ids = torch.full((len(batch), width), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros((len(batch), width), dtype=torch.long)
    pool_mask = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, item in enumerate(batch):
        length = len(item.input_ids)
        input_ids[row, :length] = torch.tensor(item.input_ids)
        attention_mask[row, :length] = 1
        pool_mask[row, :length] = torch.tensor(item.pool_mask)
    return input_ids, attention_mask, pool_mask


def token_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches, longest texts first: rows × longest row stays within `batch_tokens`, or it is one row."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


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
