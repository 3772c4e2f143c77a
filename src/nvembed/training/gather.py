"""Documents of all ranks, with gradients that find their way home.

Queries stay local. Each rank computes the loss of its own queries against everyone's documents, so a document's
gradient is the sum of what all ranks ask of it: the backward pass of the gather adds the gradients of all ranks and
each rank takes its own rows. With a loss scaled by `world size / queries of the whole batch` and an engine that
averages parameter gradients over ranks, this gives exactly the gradient of the one-process loss. Two faults are
common here: detaching the other ranks' documents bends the gradient, and gathering both sides with local gradients
loses a factor of the world size. `tests/training/test_ranks.py` fails on either.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(local)
        gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, local.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def gather_documents(local: torch.Tensor, rows: int) -> torch.Tensor:
    """Documents of all ranks, rank by rank.

    Args:
        local: (n, dim), this rank's documents; n may differ between ranks.
        rows: the greatest n of all ranks; shorter ones are padded with zero rows.

    Returns:
        (world size · rows, dim). Without other ranks: `local` as it is.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return local
    padded = torch.nn.functional.pad(local, (0, 0, 0, rows - len(local)))
    gathered: torch.Tensor = _AllGather.apply(padded)
    return gathered
