"""What makes an embedding model beside its weights: pooling, its block, text rule. Plain data, in config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from nvembed.core.errors import UserError
from nvembed.text import DEFAULT_TEMPLATE

if TYPE_CHECKING:
    from nvembed.modeling.attention import Attention
    from nvembed.modeling.latent import LatentAttention
    from nvembed.modeling.pooling import Pooling
    from nvembed.modeling.self_attention import SelfAttention
    from nvembed.recipe import Model


@dataclass(frozen=True)
class LatentSpec:
    """Shape of the latent block; None: the backbone's hidden size, as published."""

    num_latents: int = 512
    num_heads: int = 8
    head_dim: int | None = None
    latent_dim: int | None = None
    ff_mult: int = 4

    def build(self, dim: int, *, identity: bool = False) -> LatentAttention:
        """The block for token states of width `dim`, freshly initialised."""
        from nvembed.modeling.latent import LatentAttention

        return LatentAttention(dim, identity=identity, **asdict(self))


@dataclass(frozen=True)
class SelfAttentionSpec:
    """Shape of the self-attention layer; `head_dim` None: the backbone's hidden size over the heads."""

    num_heads: int = 8
    head_dim: int | None = None
    ff_mult: int = 4

    def build(self, dim: int, *, identity: bool = False) -> SelfAttention:
        """The layer for token states of width `dim`, freshly initialised."""
        from nvembed.modeling.self_attention import SelfAttention

        return SelfAttention(dim, identity=identity, **asdict(self))


Block = TypeVar("Block", LatentSpec, SelfAttentionSpec)


@dataclass(frozen=True)
class Spec:
    """All of a model's behaviour that is not in its weights."""

    pooling: Pooling = "latent"
    attention: Attention = "bidirectional"
    latent: LatentSpec | None = None
    self_attention: SelfAttentionSpec | None = None
    template: str = DEFAULT_TEMPLATE
    layout: Literal["offset", "nv-embed"] = "offset"
    append_eos: bool = True
    max_length: int = 512
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @classmethod
    def from_section(cls, model: Model) -> Spec:
        """The specification that a recipe's model section asks for."""
        latent = self_attention = None
        if model.pooling == "latent":
            block = model.latent
            latent = LatentSpec(block.num_latents, block.num_heads, block.head_dim, None, block.ff_mult)
        if model.pooling == "self-attention":
            layer = model.self_attention
            self_attention = SelfAttentionSpec(layer.num_heads, layer.head_dim, layer.ff_mult)
        return cls(
            pooling=model.pooling,
            attention=model.attention,
            latent=latent,
            self_attention=self_attention,
            template=model.query_template,
            layout="nv-embed" if model.text_rule == "nv-embed" else "offset",
            append_eos=model.append_eos,
            max_length=model.max_length,
            precision=model.precision,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Spec:
        """The specification back from `to_dict`. Raises UserError for keys or values that this version cannot read."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UserError(f"{where}: unknown keys {', '.join(unknown)}; the model was written by a later version")
        from nvembed.modeling.pooling import Pooling

        choices = {
            "pooling": get_args(Pooling),
            "attention": ("bidirectional", "causal"),
            "layout": ("offset", "nv-embed"),
            "precision": ("auto", "float32", "bfloat16"),
        }
        for key, known_values in choices.items():
            if values.get(key, known_values[0]) not in known_values:
                raise UserError(f"{where}: {key} {values[key]!r} is unknown; the model was written by a later version")
        latent, layer = values.get("latent"), values.get("self_attention")
        blocks = {
            "latent": sizes_of(LatentSpec, latent, where) if latent else None,
            "self_attention": sizes_of(SelfAttentionSpec, layer, where) if layer else None,
        }
        return cls(**{**values, **blocks})


def sizes_of(kind: type[Block], values: Mapping[str, Any], where: str) -> Block:
    """A block's sizes from plain values. Raises UserError unless they are known keys and positive whole numbers."""
    known = {field.name for field in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{where}: unknown key {key}; the model was written by a later version")
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{where}: {key} is {value!r}, not a positive whole number; copy config.json anew")
    return kind(**values)
