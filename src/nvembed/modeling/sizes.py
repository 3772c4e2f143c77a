"""A model section's model without its weights: built on the meta device, so nothing is downloaded or allocated.

Parameters are counted exactly, adapters and block as they will be. Of a hub id that is neither cached nor to be had, a
shape that is known stands in, and `Sizes.assumed` says so.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nvembed.core.errors import UserError
from nvembed.modeling.assemble import Parts, add_adapters, fresh_blocks
from nvembed.modeling.attention import set_attention
from nvembed.modeling.backbone import converted, drop_pooler
from nvembed.modeling.checks import hidden_size, text_config
from nvembed.modeling.hf_spec import spec_of
from nvembed.modeling.packing import use_packed_attention
from nvembed.modeling.source import Source, find_source, load_config
from nvembed.modeling.spec import LatentSpec, Spec

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from nvembed.recipe import Model

_MISTRAL_7B: dict[str, Any] = {  # of the published checkpoint's own configuration
    "model_type": "mistral",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "sliding_window": None,
}
_QWEN3_06B: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}
KNOWN: dict[str, dict[str, Any]] = {
    "mistralai/Mistral-7B-v0.1": _MISTRAL_7B,
    "nvidia/NV-Embed-v1": _MISTRAL_7B,
    "nvidia/NV-Embed-v2": _MISTRAL_7B,
    "Qwen/Qwen3-0.6B": _QWEN3_06B,
}
_NF4_BITS = 4.127  # a weight: 4 bits, 8 of a scale for 64 weights, 32 of a scale for 256 scales


@dataclass(frozen=True)
class Sizes:
    """Parameters of a model, and what a plan needs to know of its shape.

    Attributes:
        total, trained: parameters with and without the frozen ones.
        quantised: frozen parameters that lie in 4 bits while it is trained on.
        dim: width of the vectors.
        layers: of the backbone.
        largest: parameters of the largest module that holds some itself (what ZeRO 3 gathers at least).
        assumed: the hub id whose known shape stands in for its configuration, or None.
    """

    total: int
    trained: int
    quantised: int
    dim: int
    layers: int
    largest: int
    assumed: str | None

    @property
    def frozen(self) -> int:
        """Parameters that are not trained."""
        return self.total - self.trained

    def weight_bytes(self, low: bool) -> int:
        """Bytes of all weights as training holds them: trained ones float32, frozen ones bf16 if `low`, or 4 bits."""
        plain = self.frozen - self.quantised
        return 4 * self.trained + (2 if low else 4) * plain + int(self.quantised * _NF4_BITS / 8)


def read_sizes(model: Model) -> Sizes:
    """Count a section's parameters. Raises UserError for a backbone whose shape cannot be had."""
    parts, assumed = meta_parts(model)
    modules = [parts.backbone, *(block for block in (parts.latent, parts.self_attention) if block is not None)]
    parameters = [p for module in modules for p in module.parameters()]
    inner = [layer for module in modules for layer in module.modules()]
    held = [sum(p.numel() for p in layer.parameters(recurse=False)) for layer in inner]
    linear = {p for layer in parts.backbone.modules() if isinstance(layer, nn.Linear) for p in layer.parameters()}
    quantised = [p for p in linear if not p.requires_grad and p.ndim == 2] if model.quantization == "nf4" else []
    return Sizes(
        total=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        quantised=sum(p.numel() for p in quantised),
        dim=hidden_size(parts.backbone.config),
        layers=layers_of(parts.backbone.config),
        largest=max(held),
        assumed=assumed,
    )


def meta_parts(model: Model, layers: int | None = None) -> tuple[Parts, str | None]:
    """A section's model on the meta device, with so many layers (None: all), and `Sizes.assumed`.

    The tokenizer is left out.
    """
    config, spec, assumed = _configuration(model)
    if layers is not None and layers_of(config) > layers:
        config = _shallow(config, layers)
    from transformers import AutoModel

    with torch.device("meta"):
        backbone = AutoModel.from_config(config, trust_remote_code=model.trust_remote_code)
        drop_pooler(backbone)
        set_attention(backbone, spec.attention)
        use_packed_attention(backbone)
        blocks = fresh_blocks(spec, model, hidden_size(backbone.config), torch.float32)
        parts = Parts(backbone, None, spec, *blocks)  # type: ignore[arg-type]
        add_adapters(parts, model)
    return parts, assumed


def layers_of(config: PretrainedConfig) -> int:
    """Layers of a backbone; 1 where its configuration counts them otherwise than is usual."""
    return int(getattr(text_config(config), "num_hidden_layers", None) or 1)


def _configuration(model: Model) -> tuple[Any, Spec, str | None]:
    """The backbone's configuration, what the section asks for, and the hub id if its known shape stands in."""
    source, spec = find_source(model.backbone, model.revision), Spec.from_section(model)
    config, assumed = _config_or_known(source, model.trust_remote_code)
    if assumed is not None and assumed.startswith("nvidia/") and spec.pooling == "latent":
        spec = replace(spec, latent=LatentSpec())
    elif config.model_type == "nvembed":
        saved = spec_of(config, source.name)
        if saved.pooling == spec.pooling and saved.latent is not None:
            spec = replace(spec, latent=saved.latent)
        config = config.text_config
    return config, spec, assumed


def _config_or_known(source: Source, trust_remote_code: bool) -> tuple[Any, str | None]:
    try:
        return load_config(converted(source), trust_remote_code=trust_remote_code), None
    except UserError as error:
        if source.kind != "hub" or source.location not in KNOWN:
            known = f"; shapes known without it: {', '.join(KNOWN)}" if source.kind == "hub" else ""
            raise UserError(f"{error}{known}") from error
    from transformers import AutoConfig

    return AutoConfig.for_model(**KNOWN[source.location]), source.location


def _shallow(config: Any, layers: int) -> Any:
    """The configuration with the first so many layers."""
    config = copy.deepcopy(config)
    inner = text_config(config)
    if getattr(inner, "layer_types", None):
        inner.layer_types = inner.layer_types[:layers]
    inner.num_hidden_layers = layers
    return config
