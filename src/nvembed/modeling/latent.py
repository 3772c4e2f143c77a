"""The latent attention block of NV-Embed (arXiv 2405.17428, section 3.1), with the published parameter names.

Each token state attends, alone, to an array of trained latents: `h + W_out·MHA(LN(h), LN_c(latents))`, then
`h + FF(LN(h))` with a GEGLU. Keys and values depend on parameters alone, and no token sees another, so the block may
be applied to any subset of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

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

    def fold(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The layer re-associated: `A` (dim, heads × latents) and `B` (heads × latents, dim), for `forward_folded`.

        Keys and values depend on parameters alone, so each head's `W_qᵀ·Kᵀ`, softmax scale included, and `V·W_outᵀ`
        can be multiplied out beforehand. In float32 at least, whatever autocast says.
        """
        with torch.autocast(latents.device.type, enabled=False):
            keys, values = (self._by_head(part) for part in self.to_kv(latents).chunk(2, dim=-1))
            by_head = self.to_q.weight.unflatten(0, (self.heads, -1))
            back = self.to_out.weight.unflatten(1, (self.heads, -1))
            stored, exact = back.dtype, torch.promote_types(back.dtype, torch.float32)
            keys = keys.to(exact) * keys.shape[-1] ** -0.5
            into = torch.einsum("hwd,hlw->dhl", by_head.to(exact), keys).flatten(1)
            out_of = torch.einsum("hlw,dhw->hld", values.to(exact), back.to(exact)).flatten(0, 1)
        return into.to(stored), out_of.to(stored)

    def forward_folded(self, states: Tensor, into: Tensor, out_of: Tensor) -> Tensor:
        """What `forward` gives, up to rounding, from `fold`: two products and a softmax."""
        weights = (states @ into).unflatten(-1, (self.heads, -1)).softmax(-1)
        return weights.flatten(-2).to(states.dtype) @ out_of

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
        self._fold: tuple[Any, tuple[Tensor, Tensor]] | None = None
        if identity:
            for parameter in (*attention.to_out.parameters(), *feed.net[2].parameters()):
                nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, dim); every token by itself. Folded in eval mode without gradients, plain otherwise."""
        states = hidden.reshape(-1, hidden.shape[-1])
        attend, feed = cast(Sequence[PreNorm], self.cross_attend_blocks)
        if self.training or torch.is_grad_enabled():
            states = states + attend(states, self.latents)
        else:
            states = states + self._attention.forward_folded(attend.norm(states), *self._folded())
        states = states + feed(states)
        return states.view(hidden.shape)

    def train(self, mode: bool = True) -> LatentAttention:
        """Also forgets the folded form: optimisers may write weights in ways that leave no trace."""
        if mode:
            self._fold = None
        return super().train(mode)

    @property
    def _attention(self) -> CrossAttention:
        return self.cross_attend_blocks[0].fn  # type: ignore[union-attr,return-value]

    def _folded(self) -> tuple[Tensor, Tensor]:
        """The folded layer, made anew when a parameter was replaced, moved or written to, or after training."""
        attend: Any = self.cross_attend_blocks[0]
        parameters = [self.latents, *attend.norm_context.parameters(), *attend.fn.parameters()]
        key = tuple((p.data_ptr(), p._version, p.dtype, p.device) for p in parameters)
        if self._fold is None or self._fold[0] != key:
            self._fold = (key, self._attention.fold(attend.norm_context(self.latents)))
        return self._fold[1]
