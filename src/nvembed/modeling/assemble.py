"""The parts of a model that a recipe's section asks for: backbone, tokenizer, specification, the pooling's block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from nvembed.modeling.attention import set_attention
from nvembed.modeling.backbone import load_backbone, load_tokenizer
from nvembed.modeling.checks import check_published_text_rule, hidden_size
from nvembed.modeling.latent import LatentAttention
from nvembed.modeling.lora import add_block_lora, add_lora
from nvembed.modeling.quantized import four_bit_options, keep_layout
from nvembed.modeling.self_attention import SelfAttention
from nvembed.modeling.source import Source, find_source, load_config
from nvembed.modeling.spec import Spec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from nvembed.recipe import Model


class Parts(NamedTuple):
    """What `NVEmbedModel` is made of."""

    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    spec: Spec
    latent: LatentAttention | None = None
    self_attention: SelfAttention | None = None


def add_adapters(parts: Parts, model: Model) -> None:
    """Adapters where the section wants them; what it does not train is frozen."""
    if model.lora.enabled:
        add_lora(parts.backbone, model.lora, model.seed)
    for block, how in ((parts.latent, model.latent.train), (parts.self_attention, model.self_attention.train)):
        if block is None or how == "full":
            continue
        if how == "lora":
            add_block_lora(block, model.lora, model.seed)
        else:
            block.requires_grad_(False)


def parts_of_section(
    model: Model,
    dtype: torch.dtype,
    *,
    quantization: Literal["none", "nf4"] = "none",
    device: str | torch.device = "cpu",
) -> Parts:
    """Base weights and a fresh block; or, where the backbone is a saved model of ours or the published one, its parts.

    A saved model keeps its text rule, unless the section names another, and for its own pooling its own trained block,
    whatever sizes the section has; the rest follows the section. With `nf4` the backbone is loaded in 4 bits, onto
    `device`.

    Raises UserError for a backbone that cannot be had, and where the published text rule is asked for but does not fit.
    """
    blocks: tuple[LatentAttention | None, SelfAttention | None] | None = None
    source = find_source(model.backbone, model.revision)
    wanted = Spec.from_section(model)
    if is_saved_model(source, trust_remote_code=model.trust_remote_code):
        from nvembed.modeling.checkpoint import load_pretrained

        options = four_bit_options(dtype, device) if quantization == "nf4" else None
        loaded, tokenizer = load_pretrained(source.location, revision=source.revision, dtype=dtype, options=options)
        backbone, saved = loaded.embedding_model, loaded.spec
        spec = _with_rule_of(saved, wanted, model)
        if spec.pooling == saved.pooling:
            spec = replace(spec, latent=saved.latent, self_attention=saved.self_attention)
            blocks = (loaded.latent_attention_model, loaded.self_attention_model)
    else:
        place = {"device": device, "quantization": quantization} if quantization != "none" else {}
        backbone = load_backbone(source, dtype=dtype, trust_remote_code=model.trust_remote_code, **place)  # type: ignore[arg-type]
        tokenizer = load_tokenizer(source, trust_remote_code=model.trust_remote_code)
        spec = wanted
    keep_layout(backbone)
    if model.text_rule == "nv-embed":
        check_published_text_rule(model, backbone.config, tokenizer)
    set_attention(backbone, spec.attention)
    return Parts(backbone, tokenizer, spec, *(blocks or fresh_blocks(spec, model, hidden_size(backbone.config), dtype)))


def _with_rule_of(saved: Spec, wanted: Spec, model: Model) -> Spec:
    """What a section asks for, with the text rule of the saved model that it builds on, unless it names another."""
    if model.text_rule != "auto":
        return wanted
    if saved.layout != "nv-embed":
        return replace(wanted, layout=saved.layout)
    return replace(wanted, layout=saved.layout, template=saved.template, append_eos=saved.append_eos)


def is_saved_model(source: Source, *, trust_remote_code: bool = False) -> bool:
    """True where a source holds a whole embedding model, ours or the published one, and no bare backbone."""
    if source.kind == "random" or source.gguf:
        return False
    return load_config(source, trust_remote_code=trust_remote_code).model_type == "nvembed"


def fresh_blocks(
    spec: Spec, model: Model, dim: int, dtype: torch.dtype
) -> tuple[LatentAttention | None, SelfAttention | None]:
    """Blocks drawn from the section's seed; the caller's random state is left as it was."""
    latent = layer = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        if spec.latent is not None:
            latent = spec.latent.build(dim, identity=model.latent.init == "identity").to(dtype)
        if spec.self_attention is not None:
            layer = spec.self_attention.build(dim, identity=model.self_attention.init == "identity").to(dtype)
    return latent, layer
