"""The latent attention block of NV-Embed (arXiv 2405.17428, section 3.1), with the published parameter names.

Each token state attends, alone, to an array of trained latents: `h + W_out·MHA(LN(h), LN_c(latents))`, then
`h + FF(LN(h))` with a GEGLU. Keys and values depend on parameters alone, and no token sees another, so the block may
be applied to any subset of tokens, and its products re-associated: per head, `K·W_q` and `V·W_outᵀ` can be multiplied
out before any token comes (the folded form). At the published size a token then costs a ninth in the attention.
`docs/decisions/folded-latent-block.md` says when which form is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from nvembed.core.errors import UserError
from nvembed.modeling.replica import weights_key


class QueryProjection(nn.Linear):
    """`W_q`, bias-free. It folds inside `forward`: ZeRO 3 has a layer's weights at hand only while it is called."""

    def forward(self, rows: Tensor, *, folding: bool = False) -> Tensor:
        """(n, dim) → (n, heads × width); folding: keys (heads, latents, width) → (heads × latents, dim)."""
        return _through_heads(rows, self.weight) if folding else super().forward(rows)


class OutProjection(nn.Linear):
    """`W_out`, bias-free; folds as `QueryProjection` does."""

    def forward(self, rows: Tensor, *, folding: bool = False) -> Tensor:
        """(n, heads × width) → (n, dim); folding: values (heads, latents, width) → (heads × latents, dim)."""
        return _through_heads(rows, self.weight.T) if folding else super().forward(rows)


def _through_heads(rows: Tensor, weight: Tensor) -> Tensor:
    """(heads, latents, width), (heads × width, dim) → (heads × latents, dim), computed in the rows' precision."""
    return (rows @ weight.to(rows.dtype).unflatten(0, (len(rows), -1))).flatten(0, 1)


class CrossAttention(nn.Module):
    """Token states ask, latents answer. A head may be wider than `dim / heads`: published, each has width `dim`."""

    def __init__(self, dim: int, latent_dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = QueryProjection(dim, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(latent_dim, 2 * heads * head_dim, bias=False)
        self.to_out = OutProjection(heads * head_dim, dim, bias=False)

    def forward(self, states: Tensor, latents: Tensor, *, folded: bool = False) -> Tensor:
        """(n, dim) and (latents, latent_dim) → (n, dim). Both forms give the same values and gradients up to rounding.

        `folded` folds anew in each call, for autograd to go through.
        """
        if folded:
            return attend_folded(states, *self.fold(latents), self.heads)
        keys, values = self._keys_and_values(latents)
        query = self._by_head(self.to_q(states))
        mixed = functional.scaled_dot_product_attention(query, keys, values)
        return self.to_out(mixed.transpose(0, 1).flatten(1))

    def fold(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Folded keys and values, each (heads × latents, dim), for `attend_folded`; keys hold the softmax's scale."""
        keys, values = self._keys_and_values(latents)
        return self.to_q(keys * keys.shape[-1] ** -0.5, folding=True), self.to_out(values, folding=True)

    def folding_pays(self, num_latents: int, tokens: int | None, calls: int = 1) -> bool:
        """Whether the folded form takes fewer multiplications for `tokens` tokens in `calls` calls.

        Keys and values are made in either form and not counted; a backward pass doubles both sides. `tokens` None:
        however many, after a fold that is made once.
        """
        inner, dim = self.to_q.out_features, self.to_q.in_features
        saved_by_token = 2 * inner * (dim + num_latents) - 2 * self.heads * num_latents * dim
        if tokens is None:
            return saved_by_token > 0
        return tokens * saved_by_token > calls * 2 * num_latents * inner * dim

    def _keys_and_values(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.to_kv(latents).chunk(2, dim=-1)
        return self._by_head(keys), self._by_head(values)

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(0, 1)


def attend_folded(states: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """What `CrossAttention` gives, up to rounding, from its fold: two products and a softmax.

    (n, dim), (heads × latents, dim), (heads × latents, dim) → (n, dim).
    """
    scores = functional.linear(states, keys)
    weights = scores.unflatten(-1, (heads, -1)).softmax(-1).flatten(-2)
    return weights.to(scores.dtype) @ values


class FoldedAttention(nn.Module):
    """Cross attention of which only the fold is left."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("keys", keys)
        self.register_buffer("values", values)

    def forward(self, states: Tensor) -> Tensor:
        """(n, dim) → (n, dim)."""
        return attend_folded(states, self.keys, self.values, self.heads)


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

    def forward(self, states: Tensor, context: Tensor | None = None, **how: bool) -> Tensor:
        """(n, dim) → (n, dim); `how` goes to the sub-layer."""
        if self.norm_context is None or context is None:
            return self.fn(self.norm(states))
        return self.fn(self.norm(states), self.norm_context(context), **how)


class LatentAttention(nn.Module):
    """The block: cross attention to the latents, then a feed-forward layer, each with a residual.

    Args:
        dim: width of the token states.
        num_latents, latent_dim: shape of the latent array (`latent_dim` None: `dim`).
        num_heads, head_dim: heads of the cross attention (`head_dim` None: `dim`, as published).
        ff_mult: inner width of the feed-forward layer over `dim`.
        identity: start as the identity map: both output projections are zero.

    Attributes:
        folded: the form of the attention. None: the one with fewer multiplications; where several ranks train
            together the plain one, since ZeRO wants every rank to use its parameters in the same order: their trainer
            sets one form for all (`choose_form`).
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
        self.num_latents = num_latents
        self.folded: bool | None = None
        self._fold: tuple[Any, FoldedAttention] | None = None
        if identity:
            for parameter in (*attention.to_out.parameters(), *feed.net[2].parameters()):
                nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, dim) → (…, dim); every token by itself."""
        states = hidden.reshape(-1, hidden.shape[-1])
        attend, feed = cast(Sequence[PreNorm], self.cross_attend_blocks)
        if self.inference_only:
            self._refuse_training()
            states = states + attend(states)
        elif self._weights_rest() and self.folding_pays(None):
            states = states + self._folded()(attend.norm(states))
        else:
            states = states + attend(states, self.latents, folded=self.folding_pays(len(states)))
        states = states + feed(states)
        return states.view(hidden.shape)

    def folding_pays(self, tokens: int | None) -> bool:
        """The form for a call with `tokens` tokens: `folded` if set, else by `CrossAttention.folding_pays`."""
        if self.folded is not None:
            return self.folded
        if tokens is not None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return False
        return self._attention.folding_pays(self.num_latents, tokens)

    def choose_form(self, tokens: int, calls: int) -> None:
        """Set `folded` to what takes fewer multiplications for `tokens` tokens in `calls` calls.

        For a trainer, before each step, with the same numbers on every rank.
        """
        self.folded = self._attention.folding_pays(self.num_latents, tokens, calls)

    @property
    def inference_only(self) -> bool:
        """True after `drop_unfolded`."""
        return isinstance(self.cross_attend_blocks[0].fn, FoldedAttention)

    def drop_unfolded(self) -> LatentAttention:
        """Keep the fold alone, for inference: at the published size a fifteenth of the attention's weights.

        The block can then be neither trained (UserError) nor saved. Where folding would not pay nothing changes.
        """
        if not self.inference_only and self.folding_pays(None):
            fold, attend = self._folded(), cast(PreNorm, self.cross_attend_blocks[0])
            self._fold = attend.norm_context = None
            attend.fn = fold
            self.register_parameter("latents", None)
        return self

    def train(self, mode: bool = True) -> LatentAttention:
        """Also forgets the folded form: optimisers may write weights in ways that leave no trace."""
        if mode:
            self._fold = None
        return super().train(mode)

    def _refuse_training(self) -> None:
        """The attention would silently stay as it is."""
        if self.training and torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            raise UserError("the model was loaded with inference_only=True and cannot be trained; load it without")

    @property
    def _attention(self) -> CrossAttention:
        return self.cross_attend_blocks[0].fn  # type: ignore[union-attr,return-value]

    def _attention_parameters(self) -> list[nn.Parameter]:
        attend: Any = self.cross_attend_blocks[0]
        return [self.latents, *attend.norm_context.parameters(), *attend.fn.parameters()]

    def _weights_rest(self) -> bool:
        """No training, and no gradient asked of the attention's weights: a fold may be kept."""
        wanted = torch.is_grad_enabled() and any(p.requires_grad for p in self._attention_parameters())
        return not self.training and not wanted

    def _folded(self) -> FoldedAttention:
        """The kept fold, made anew when a parameter was replaced, moved or written to, or after training.

        It is multiplied out in the weights' own precision, whatever autocast says.
        """
        key = weights_key(self._attention_parameters())
        if self._fold is None or self._fold[0] != key:
            # Not as inference tensors, which a later call with gradients could not use.
            with torch.inference_mode(False), torch.no_grad(), _without_autocast(self.latents.device.type):
                context = cast(Any, self.cross_attend_blocks[0]).norm_context(self.latents)
                self._fold = (key, FoldedAttention(*self._attention.fold(context), self._attention.heads))
        return self._fold[1]


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Autocast off, where the kind of device has it at all (`meta` has not)."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
