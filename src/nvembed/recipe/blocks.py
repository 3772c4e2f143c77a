"""What of the embedding model is made and trained: adapters on the backbone, and the pooling's block."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nvembed.recipe.base import Fraction, Positive, Section

TrainBlock = Literal["full", "lora", "frozen"]
TRAIN_BLOCK = (
    "full: every weight of the block; lora: adapters on its linear layers alone, of the backbone's rank and without "
    "dropout; frozen: nothing, for a block that a saved model brings"
)


class LoRA(Section):
    """Low-rank adapters on the backbone's linear layers; `enabled: false` trains the backbone in full."""

    enabled: bool = True
    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Fraction = 0.1
    targets: list[str] | Literal["all-linear"] = "all-linear"


class LatentBlock(Section):
    """The latent attention block. `init: identity` starts it as the identity map (output projections zero)."""

    num_latents: Positive = 512
    num_heads: Positive = 8
    head_dim: Positive | None = Field(None, description="width of a head; None: the hidden size, as published")
    ff_mult: Positive = 4
    init: Literal["published", "identity"] = "published"
    train: TrainBlock = Field("full", description=TRAIN_BLOCK)


class SelfAttentionBlock(Section):
    """The self-attention layer of `pooling: self-attention`. `init: identity` starts it as the identity map."""

    num_heads: Positive = 8
    head_dim: Positive | None = Field(None, description="width of a head; None: the hidden size over the heads")
    ff_mult: Positive = 4
    init: Literal["random", "identity"] = "random"
    train: TrainBlock = Field("full", description=TRAIN_BLOCK)
