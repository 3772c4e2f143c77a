"""Between a `Spec` and the configuration that transformers reads, in the published form and the project's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nvembed.core.errors import UserError
from nvembed.modeling.hf_config import PUBLISHED_BACKBONE, NVEmbedConfig
from nvembed.modeling.spec import LatentSpec, Spec, sizes_of
from nvembed.text import DEFAULT_TEMPLATE

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def spec_of(config: NVEmbedConfig, where: str) -> Spec:
    """The specification that a configuration holds. Raises UserError for what this version cannot do."""
    if config.nvembed is not None:
        return Spec.from_dict(config.nvembed, where)
    for key, expected in (("is_mask_instruction", True), ("mask_type", "b")):
        if getattr(config, key, expected) != expected:
            raise UserError(f"{where}: {key} is {getattr(config, key)!r}; only {expected!r} is supported")
    block = config.latent_attention_config or {}
    if not block.get("output_normalize", True):
        raise UserError(f"{where}: latent_attention_config.output_normalize is false; only true is supported")
    latent = sizes_of(
        LatentSpec,
        {
            "num_latents": block.get("num_latents_value", 512),
            "num_heads": block.get("num_cross_heads", 8),
            "head_dim": block.get("cross_dim_head", 4096),
            "latent_dim": block.get("latent_dim", 4096),
        },
        where,
    )
    return Spec(
        pooling="latent",
        attention="bidirectional",
        latent=latent,
        layout="nv-embed",
        append_eos=bool(getattr(config, "add_eos", True)),
        max_length=512,
    )


def own_config(spec: Spec, backbone: PretrainedConfig, prompt_tail: list[int], dtype: str) -> NVEmbedConfig:
    """The project's own form, for any backbone."""
    return NVEmbedConfig(
        text_config={**_plain(backbone), "dtype": dtype},
        nvembed=spec.to_dict(),
        prompt_tail=prompt_tail,
        dtype=dtype,
        architectures=["NVEmbedTextModel"],
    )


def published_misfit(spec: Spec) -> str | None:
    """Why the published layout cannot hold a model of this specification; None if it can."""
    if spec.layout != "nv-embed" or spec.template != DEFAULT_TEMPLATE:
        return "holds only models with the published text rule (recipe key model.text_rule=nv-embed)"
    if spec.pooling != "latent" or spec.latent is None or spec.latent.ff_mult != 4:
        return "holds only models with a latent block whose ff_mult is 4"
    if spec.attention != "bidirectional":
        return "holds only models that look both ways"
    return None


def backbone_misfit(backbone: PretrainedConfig) -> str | None:
    """Why the published layout cannot hold a model on this backbone; None if it can.

    Its `bidir_mistral` is a Mistral of transformers 4.42: heads of width hidden size / heads, plain rotary positions.
    """
    if backbone.model_type != "mistral":
        return f"holds a Mistral backbone only, not {backbone.model_type}"
    width = backbone.hidden_size // backbone.num_attention_heads
    if (getattr(backbone, "head_dim", None) or width) != width:
        return f"holds heads of width {width} (hidden size / heads) only, not {backbone.head_dim}"
    kind = (backbone.rope_parameters or {}).get("rope_type", "default")
    return None if kind == "default" else f"holds plain rotary positions only, not {kind!r}"


def published_config(spec: Spec, backbone: PretrainedConfig, dtype: str) -> dict[str, Any]:
    """The published form, as plain values. Raises UserError for a model that it cannot express."""
    misfit = published_misfit(spec) or backbone_misfit(backbone)
    if misfit:
        raise UserError(f"layout 'nv-embed': {misfit}; use layout='sentence-transformers'")
    assert spec.latent is not None
    text = {key: value for key, value in _plain(backbone).items() if key not in ("rope_parameters", "is_causal")}
    text["rope_theta"] = (backbone.rope_parameters or {}).get("rope_theta", 10000.0)
    return {
        "model_type": "nvembed",
        "architectures": ["NVEmbedModel"],
        "add_eos": spec.append_eos,
        "add_pad_token": True,
        "hidden_size": backbone.hidden_size,
        "is_mask_instruction": True,
        "mask_type": "b",
        "padding_side": "right",
        "latent_attention_config": {
            "model_type": "latent_attention",
            "num_latents_value": spec.latent.num_latents,
            "num_cross_heads": spec.latent.num_heads,
            "cross_dim_head": spec.latent.head_dim or backbone.hidden_size,
            "latent_dim": spec.latent.latent_dim or backbone.hidden_size,
            "hidden_dim": backbone.hidden_size,
            "output_normalize": True,
        },
        "text_config": {**text, "model_type": PUBLISHED_BACKBONE, "sliding_window": 4096},
        "torch_dtype": dtype,
    }


def _plain(backbone: PretrainedConfig) -> dict[str, Any]:
    values = backbone.to_dict()
    for key in ("_name_or_path", "_attn_implementation", "transformers_version", "architectures", "auto_map"):
        values.pop(key, None)
    return values
