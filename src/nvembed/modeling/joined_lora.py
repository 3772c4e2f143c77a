"""A linear layer and its adapter as one operation: `x·Wᵀ + s·(x·Aᵀ)·Bᵀ`, with a backward pass of its own.

peft's layer computes the same in five operations, three of them over whole outputs, and in training it turns the input
into the adapter's float32 first. Here the adapter's part is added by the product itself, and what is kept for the
backward pass is the input, once for all layers that share it, and the low-rank activations. W is frozen, so it has no
gradient. Wherever a layer is asked for more than this (dropout, several adapters, merged weights, weights that ZeRO 3
has to gather) it is peft's own.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional

from nvembed.modeling.packed_attention import compute_dtype


def join_adapters(module: nn.Module) -> None:
    """Make peft's adapters on plain linear layers joined ones, in place. Names and weights stay."""
    for layer in module.modules():
        if type(layer) is Linear and type(layer.base_layer) is nn.Linear:
            layer.__class__ = JoinedLinear


class JoinedLinear(Linear):
    """peft's layer, computed as one operation where that is possible."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(…, in) → (…, out), in the precision that a linear layer would compute in."""
        name = self.active_adapters[0] if len(self.active_adapters) == 1 else None
        weight, bias = self.base_layer.weight, self.base_layer.bias
        if args or kwargs or name is None or not self._is_plain(name) or weight.requires_grad or _is_sharded(weight):
            return super().forward(x, *args, **kwargs)
        dtype = compute_dtype(x)
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        parts = (None if part is None else part.to(dtype) for part in (x, weight, bias, down, up))
        joined: Tensor = _Joined.apply(*parts, self.scaling[name])
        return joined

    def _is_plain(self, name: str) -> bool:
        """Whether an adapter is the two products and nothing else, as things stand now."""
        dropout = self.lora_dropout[name]
        drops = self.training and not isinstance(dropout, nn.Identity) and getattr(dropout, "p", 1.0) > 0
        return (
            name in self.lora_A
            and name not in self.lora_variant
            and self.lora_B[name].bias is None
            and not (self.disable_adapters or self.merged or drops)
        )


def _is_sharded(weight: Any) -> bool:
    """True under ZeRO 3, which has a layer's weights at hand only while that very layer is called."""
    return hasattr(weight, "ds_id")


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ down.T
        ctx.save_for_backward(rows, low, weight, down, up)
        ctx.scale, ctx.shape = scale, x.shape
        out = functional.linear(rows, weight, bias).addmm_(low, up.T, alpha=scale)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, down, up = ctx.saved_tensors
        gradient = gradients[0].reshape(len(rows), -1)
        of_low = (gradient @ up).mul_(ctx.scale)
        wants_x, _, wants_bias, wants_down, wants_up, _ = ctx.needs_input_grad
        assert not wants_bias
        of_x = (gradient @ weight).addmm_(of_low, down).view(ctx.shape) if wants_x else None
        of_down = of_low.T @ rows if wants_down else None
        of_up = (gradient.T @ low).mul_(ctx.scale) if wants_up else None
        return of_x, None, None, of_down, of_up, None
