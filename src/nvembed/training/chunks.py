"""A rank's texts, cut into chunks of like length that fit a token budget."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel
    from nvembed.text import Tokenized

PADDING_SLACK = 0.8  # a text shorter than this share of its chunk's longest opens a new chunk …
MIN_CHUNK_TOKENS = 1024  # … once the chunk is large enough to keep the cores busy


@dataclass(frozen=True)
class Chunk:
    """Texts encoded together, padded on the right.

    Attributes:
        rows: (n,) int64, which texts these are; empty for a chunk that only keeps pace with other ranks.
        input_ids, attention_mask, pool_mask: (n or 1, longest), int64, int64 and bool.
        seed: seeds the random numbers before the chunk is encoded, so that dropout repeats.
    """

    rows: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pool_mask: torch.Tensor
    seed: int

    def to(self, device: torch.device) -> Chunk:
        """The same on another device."""
        return Chunk(
            self.rows.to(device),
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.pool_mask.to(device),
            self.seed,
        )


def cut(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Divide texts into chunks, longest first; padded, each has at most `budget` tokens (but always one text)."""
    chunks: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if chunks:
            tokens = len(chunks[-1]) * longest
            wasteful = lengths[index] < PADDING_SLACK * longest and tokens >= MIN_CHUNK_TOKENS
            if tokens + longest <= budget and not wasteful:
                chunks[-1].append(index)
                continue
        chunks.append([index])
        longest = lengths[index]
    return chunks


def padded_tokens(lengths: Sequence[int], chunks: Sequence[Sequence[int]]) -> int:
    """Tokens of all chunks, padding included."""
    return sum(len(chunk) * max(lengths[i] for i in chunk) for chunk in chunks)


def make_chunk(model: NVEmbedModel, tokenized: Sequence[Tokenized], rows: Sequence[int], seed: int) -> Chunk:
    """Pad some texts to their longest. Without rows the chunk holds one token, whose vector nobody uses."""
    items = [tokenized[row] for row in rows] or [
        replace(tokenized[0], input_ids=tokenized[0].input_ids[:1], pool_mask=[True])
    ]
    return Chunk(torch.tensor(list(rows), dtype=torch.int64), *model.collate(items), seed=seed)


def chunk_seed(seed: int, step: int, rank: int, chunk: int) -> int:
    """The seed of one chunk. It depends on nothing else, so a resumed run needs no saved random state."""
    digest = hashlib.sha256(f"{seed}:{step}:{rank}:{chunk}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
