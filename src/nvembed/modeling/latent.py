"""The latent attention block of NV-Embed (arXiv 2405.17428, section 3.1), with the published parameter names.

Each token state attends, alone, to an array of trained latents: `h + W_out·MHA(LN(h), LN_c(latents))`, then
`h + FF(LN(h))` with a GEGLU. Keys and values depend on parameters alone, and no token sees another, so the block may
be applied to any subset of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CrossAttention(nn.Module):
    """Token states ask, latents answer. A head may be wider than `dim / heads`: published, each has width `dim`."""

    def __init__(self, dim: int, latent_dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(latent_dim, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, states: Tensor, latents: Tensor) -> Tensor:
        """(n, dim) and (latents, latent_dim) → (n, dim)."""
        query = self._by_head(self.to_q(states))
        keys, values = (self._by_head(part) for part in self.to_kv(latents).chunk(2, dim=-1))
        mixed = functional.scaled_dot_product_attention(query, keys, values)
        return self.to_out(mixed.transpose(0, 1).flatten(1))

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(0, 1)


class GEGLU(nn.Module):
    """First half × gelu(second half)."""

    def forward(self, states: Tensor) -> Tensor:
        """(…, 2k) → (…, k)."""
        value, gate = states.chunk(2, dim=-1)
        return value * functional.gelu(gate)


class FeedForward(nn.Module):
    """Linear, GEGLU, linear."""

    def __init__(self, dim: int, mult: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 2 * mult * dim), GEGLU(), nn.Linear(mult * dim, dim))

    def forward(self, states: Tensor) -> Tensor:
        """(n, dim) → (n, dim)."""
        return self.net(states)


class PreNorm(nn.Module):
    """A sub-layer with LayerNorm before it, for the latents too where it takes them."""

    def __init__(self, dim: int, fn: nn.Module, context_dim: int | None = None) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(context_dim) if context_dim is not None else None

    def forward(self, states: Tensor, context: Tensor | None = None) -> Tensor:
        """(n, dim) → (n, dim)."""
        if self.norm_context is None or context is None:
            return self.fn(self.norm(states))
        return self.fn(self.norm(states), self.norm_context(context))


class LatentAttention(nn.Module):
    """The block: cross attention to the latents, then a feed-forward layer, each with a residual.

    Args:
        dim: width of the token states.
        num_latents, latent_dim: shape of the latent array (`latent_dim` None: `dim`).
        num_heads, head_dim: heads of the cross attention (`head_dim` None: `dim`, as published).
        ff_mult: inner width of the feed-forward layer over `dim`.
        identity: start as the identity map: both output projections are zero.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_latents: int = 512,
        latent_dim: int | None = None,
        num_heads: int = 8,
        head_dim: int | None = None,
        ff_mult: int = 4,
        identity: bool = False,
    ) -> None:
        super().__init__()
        latent_dim = latent_dim or dim
        attention = CrossAttention(dim, latent_dim, num_heads, head_dim or dim)
        self.latents = nn.Parameter(torch.randn(num_latents, latent_dim))
        feed = FeedForward(dim, ff_mult)
        self.cross_attend_blocks = nn.ModuleList([PreNorm(dim, attention, context_dim=latent_dim), PreNorm(dim, feed)])
        if identity:
            for parameter in (*attention.to_out.parameters(), *feed.net[2].parameters()):
                nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, dim); every token by itself."""
        states = hidden.reshape(-1, hidden.shape[-1])
        attend, feed = self.cross_attend_blocks
        states = states + attend(states, self.latents)
        states = states + feed(states)
        return states.view(hidden.shape)
