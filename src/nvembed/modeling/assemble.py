"""The parts of a model that a recipe's section asks for: backbone, tokenizer, specification, latent block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from nvembed.modeling.attention import set_attention
from nvembed.modeling.backbone import load_backbone, load_tokenizer
from nvembed.modeling.checks import hidden_size
from nvembed.modeling.latent import LatentAttention
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
    latent: LatentAttention | None


def parts_of_section(model: Model, dtype: torch.dtype) -> Parts:
    """Base weights and a fresh block; or, where the backbone is a saved model of ours or the published one, its parts.

    A saved model keeps its text rule and, for `latent` pooling, its own trained block, whatever sizes the section
    has; the rest follows the section.
    """
    source = find_source(model.backbone, model.revision)
    wanted = Spec.from_section(model)
    if is_saved_model(source, trust_remote_code=model.trust_remote_code):
        from nvembed.modeling.checkpoint import load_pretrained

        loaded, tokenizer = load_pretrained(source.location, revision=source.revision, dtype=dtype)
        backbone, saved = loaded.embedding_model, loaded.spec
        published = saved.layout == "nv-embed"
        spec = replace(
            wanted,
            layout=saved.layout,
            template=saved.template if published else wanted.template,
            append_eos=saved.append_eos if published else wanted.append_eos,
        )
        if spec.pooling == "latent" and loaded.latent_attention_model is not None:
            set_attention(backbone, spec.attention)
            return Parts(backbone, tokenizer, replace(spec, latent=saved.latent), loaded.latent_attention_model)
    else:
        backbone = load_backbone(source, dtype=dtype, trust_remote_code=model.trust_remote_code)
        tokenizer = load_tokenizer(source, trust_remote_code=model.trust_remote_code)
        spec = wanted
    set_attention(backbone, spec.attention)
    return Parts(backbone, tokenizer, spec, _fresh_block(spec, model, hidden_size(backbone.config), dtype))


def is_saved_model(source: Source, *, trust_remote_code: bool = False) -> bool:
    """True where a source holds a whole embedding model, ours or the published one, and no bare backbone."""
    if source.kind == "random" or source.gguf:
        return False
    return load_config(source, trust_remote_code=trust_remote_code).model_type == "nvembed"


def _fresh_block(spec: Spec, model: Model, dim: int, dtype: torch.dtype) -> LatentAttention | None:
    """A block drawn from the section's seed; the caller's random state is left as it was."""
    if spec.latent is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        return spec.latent.build(dim, identity=model.latent.init == "identity").to(dtype)
