"""What a model section can be refused for before anything is built, and the digest that names its backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.errors import UserError
from nvembed.modeling.gguf_header import read_header
from nvembed.modeling.source import Source, explained, find_source, load_config, source_digest

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from nvembed.recipe import Model, Teacher

# Roberta and its kin begin counting positions after the padding index
_POSITION_OFFSETS = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}


def check_section(model: Model | Teacher) -> None:
    """Check a model or teacher section against the backbone's configuration; no weights are read.

    Raises UserError if the backbone cannot be had, `max_length` exceeds its positions, the template has another
    shape than `...{task}...{text}`, or the latent block's sizes make no sense.
    """
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


def _check_latent(model: Model, dim: int) -> None:
    inner = model.latent.num_heads * (model.latent.head_dim or dim)
    if inner > 64 * dim or model.latent.num_latents > 65536:
        raise UserError(
            f"model.latent: {model.latent.num_heads} heads of {model.latent.head_dim or dim} and "
            f"{model.latent.num_latents} latents are far beyond the backbone's width {dim}; make them smaller"
        )


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
