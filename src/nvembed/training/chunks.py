"""Some of a rank's texts, encoded together: what `modeling.batching.token_batches` puts into one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel
    from nvembed.text import Tokenized


@dataclass(frozen=True)
class Chunk:
    """Texts encoded together, in either form that the model's `forward` takes.

    Attributes:
        rows: (n,) int64, which texts these are; empty for a chunk that only keeps pace with other ranks.
        input_ids, attention_mask, pool_mask: padded (n or 1, longest), int64, int64 and bool; packed (tokens,),
            the lengths (n or 1,) in the place of the mask, (tokens,).
        seed: seeds the random numbers before the chunk is encoded, so that dropout repeats.
    """

    rows: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pool_mask: torch.Tensor
    seed: int

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return int(self.attention_mask.max()) if self.input_ids.ndim == 1 else self.input_ids.shape[1]

    def to(self, device: torch.device) -> Chunk:
        """The same on another device."""
        return Chunk(
            self.rows.to(device),
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.pool_mask.to(device),
            self.seed,
        )


def make_chunk(
    model: NVEmbedModel, tokenized: Sequence[Tokenized], rows: Sequence[int], seed: int, *, packed: bool = False
) -> Chunk:
    """Some texts as one chunk. Without rows it holds one token, whose vector nobody uses."""
    items = [tokenized[row] for row in rows] or [
        replace(tokenized[0], input_ids=tokenized[0].input_ids[:1], pool_mask=[True])
    ]
    return Chunk(torch.tensor(list(rows), dtype=torch.int64), *model.collate(items, packed=packed), seed=seed)


def chunk_seed(seed: int, step: int, rank: int, chunk: int) -> int:
    """The seed of one chunk. It depends on nothing else, so a resumed run needs no saved random state."""
    digest = hashlib.sha256(f"{seed}:{step}:{rank}:{chunk}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
