"""What a model section can be refused for before anything is built, and the digest that names its backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.errors import UserError
from nvembed.modeling.gguf_header import read_header
from nvembed.modeling.quantized import check_quantization
from nvembed.modeling.source import Source, explained, find_source, load_config, source_digest

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

    from nvembed.recipe import Model, Teacher
    from nvembed.text import TextRule

# Roberta and its kin begin counting positions after the padding index
_POSITION_OFFSETS = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}


def check_section(model: Model | Teacher) -> None:
    """Check a model or teacher section against the backbone's configuration; of weights no more than their shapes.

    Raises UserError if the backbone cannot be had, `max_length` exceeds its positions, the template has another
    shape than `...{task}...{text}`, the pooling block's sizes make no sense, or the published text rule is asked for
    where it does not fit, or the weights in a folder have other shapes than its configuration says.
    """
    from nvembed.modeling.backbone import check_fit
    from nvembed.text.rule import split_template

    where = "mining.teacher"
    if hasattr(model, "query_template"):
        where = "model"
        split_template(model.query_template)
    source = find_source(model.backbone, model.revision)
    positions, dim = shape_of(source, trust_remote_code=model.trust_remote_code)
    if positions is not None and model.max_length > positions:
        raise UserError(
            f"{where}.max_length is {model.max_length}, but {model.backbone} has only {positions} positions; "
            f"set it to {positions} or less"
        )
    if model.pooling == "latent":  # a teacher has none
        _check_latent(model, dim)
        _check_frozen(model, "latent", source)
    if model.pooling == "self-attention":
        _check_self_attention(model, dim)
        _check_frozen(model, "self_attention", source)
    if getattr(model, "text_rule", "auto") == "nv-embed":
        _check_text_rule(model, source)  # type: ignore[arg-type]
    if getattr(model, "quantization", "none") != "none":
        check_quantization()
    check_fit(source, trust_remote_code=model.trust_remote_code)


def _check_latent(model: Model, dim: int) -> None:
    inner = model.latent.num_heads * (model.latent.head_dim or dim)
    if inner > 64 * dim or model.latent.num_latents > 65536:
        raise UserError(
            f"model.latent: {model.latent.num_heads} heads of {model.latent.head_dim or dim} and "
            f"{model.latent.num_latents} latents are far beyond the backbone's width {dim}; make them smaller"
        )


def _check_self_attention(model: Model, dim: int) -> None:
    layer = model.self_attention
    if layer.head_dim is None and dim % layer.num_heads:
        raise UserError(
            f"model.self_attention: {layer.num_heads} heads do not divide the backbone's width {dim}; "
            "change num_heads, or set head_dim"
        )
    if layer.num_heads * (layer.head_dim or 1) > 64 * dim:
        raise UserError(
            f"model.self_attention: {layer.num_heads} heads of {layer.head_dim} are far beyond the backbone's width "
            f"{dim}; make them smaller"
        )


def _check_frozen(model: Model, block: str, source: Source) -> None:
    """A block that nobody has trained is not worth freezing."""
    if getattr(model, block).train != "frozen":
        return
    from nvembed.modeling.hf_spec import spec_of

    config = None if source.gguf else load_config(source, trust_remote_code=model.trust_remote_code)
    saved = spec_of(config, source.name) if config is not None and config.model_type == "nvembed" else None  # type: ignore[arg-type]
    if saved is None or saved.pooling != model.pooling:
        raise UserError(
            f"model.{block}.train is frozen, but {model.backbone} brings no block of its own, and a fresh one would "
            f"stay as drawn; set model.{block}.train=full"
        )


def _check_text_rule(model: Model, source: Source) -> None:
    """The tokenizer is read, no weights."""
    config = load_config(source, trust_remote_code=model.trust_remote_code)
    check_published_text_rule(model, config, _tokenizer_of(model, source, config))


def _tokenizer_of(model: Model, source: Source, config: PretrainedConfig | None) -> PreTrainedTokenizerFast:
    if config is not None and config.model_type == "nvembed":
        from nvembed.modeling.checkpoint import load_saved_tokenizer

        return load_saved_tokenizer(source.location, source.revision)
    from nvembed.modeling.backbone import load_tokenizer

    return load_tokenizer(source, trust_remote_code=model.trust_remote_code)


def text_rule_of(model: Model) -> TextRule:
    """The section's text rule by offset, for counting tokens: no weights are read."""
    from nvembed.text import TextRule

    source = find_source(model.backbone, model.revision)
    config = None if source.gguf else load_config(source, trust_remote_code=model.trust_remote_code)
    tokenizer = _tokenizer_of(model, source, config)
    return TextRule(tokenizer, model.query_template, "offset", model.append_eos)


def check_published_text_rule(model: Model, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raises UserError if `model.text_rule: nv-embed` does not fit backbone, tokenizer and template."""
    from nvembed.modeling.hf_spec import backbone_misfit
    from nvembed.text import check_published_rule

    misfit = backbone_misfit(text_config(config))
    if misfit:
        raise UserError(f"model.text_rule is 'nv-embed', but the published layout {misfit}; use model.text_rule=offset")
    check_published_rule(tokenizer, model.query_template)


def shape_of(source: Source, *, trust_remote_code: bool = False) -> tuple[int | None, int]:
    """The most positions a backbone takes (None: no limit named) and the width of its token states."""
    if source.gguf:
        with explained(source):
            header = read_header(Path(source.location) / source.gguf)
            family = header["general.architecture"]
            return header.get(f"{family}.context_length"), header[f"{family}.embedding_length"]
    config = load_config(source, trust_remote_code=trust_remote_code)
    return max_positions(config), hidden_size(config)


def text_config(config: PretrainedConfig) -> Any:
    """The part of a configuration that describes the text model."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def hidden_size(config: PretrainedConfig) -> int:
    """Width of a backbone's token states."""
    text = text_config(config)
    return int(getattr(text, "hidden_size", None) or getattr(text, "d_model", None) or text.dim)


def max_positions(config: PretrainedConfig) -> int | None:
    """The longest text a backbone can take, in tokens; None if it names no limit."""
    positions = getattr(text_config(config), "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return None
    return int(positions) - _POSITION_OFFSETS.get(config.model_type, 0)


def backbone_digest(model: Model | Teacher) -> str:
    """Digest of a section's base weights and tokenizer: what an adapter belongs to.

    File contents for a folder or package (read once while they are unchanged), shape and seed for a random one, the
    resolved commit for a hub id.
    """
    return source_digest(find_source(model.backbone, model.revision), trust_remote_code=model.trust_remote_code)
