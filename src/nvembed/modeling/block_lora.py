"""The adapter on a projection of the latent block that can also be folded (`latent.QueryProjection`, `OutProjection`).

Folding a weight `W + s·B·A` is folding `W` and folding the low-rank part, which costs little: one product with B, one
with A. Both are had from the adapter's own layers, called on the identity: ZeRO 3 has a layer's weights at hand only
while that layer is called.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor

from nvembed.modeling.latent import OutProjection


class FoldingLoRA(Linear):
    """peft's layer, with the block's `folding`."""

    def forward(self, x: Tensor, *args: Any, folding: bool = False, **kwargs: Any) -> Tensor:
        """As the projection's own `forward`, adapters added."""
        if not folding:
            return super().forward(x, *args, **kwargs)
        assert self.in_features is not None, "peft knows the sizes of a linear layer"
        folded = self.base_layer(x, folding=True)
        for name in self.active_adapters:
            down: Any = self.lora_A[name]
            up: Any = self.lora_B[name]
            into = up(_identity(self.r[name], x)).T  # (out features, rank): B
            out_of = down(_identity(down.in_features, x))  # (in features, rank): A transposed
            if isinstance(self.base_layer, OutProjection):  # it folds by its transposed weight
                into, out_of = out_of, into
            by_head = into.to(x.dtype).unflatten(0, (len(x), -1))  # (heads, width, rank)
            added = (x @ by_head).flatten(0, 1) @ out_of.to(x.dtype).T
            folded = folded + self.scaling[name] * added
        return folded


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
