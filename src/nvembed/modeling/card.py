"""Models as their own cards say: an untrained backbone with plain pooling, for baselines and mining teachers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from nvembed.modeling.assemble import is_saved_model
from nvembed.modeling.attention import set_attention
from nvembed.modeling.backbone import load_backbone, load_tokenizer
from nvembed.modeling.source import find_source
from nvembed.modeling.spec import Spec
from nvembed.text import DEFAULT_TEMPLATE

if TYPE_CHECKING:
    from nvembed.modeling.model import NVEmbedModel


def from_card(
    cls: type[NVEmbedModel],
    backbone: str,
    *,
    revision: str | None = None,
    pooling: Literal["mean", "cls", "last"] = "mean",
    query_prefix: str = "",
    document_prefix: str = "",
    max_length: int = 512,
    attention: Literal["bidirectional", "causal"] = "causal",
    template: str = DEFAULT_TEMPLATE,
    append_eos: bool | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    trust_remote_code: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> NVEmbedModel:
    """An untrained backbone as its own card says: its pooling, its prefixes, no block, no instruction.

    For baselines and mining teachers. A saved model of this project, or a published one, comes as what it is, with
    its own pooling and text rule. `template` is used only if a caller gives an instruction all the same.
    `append_eos` None adds an end token for `last` pooling alone.
    """
    source = find_source(backbone, revision)
    if is_saved_model(source, trust_remote_code=trust_remote_code):
        built = cls.from_pretrained(source.location, revision=revision, device=device, dtype=dtype)
        built.spec = replace(built.spec, max_length=max_length, precision=precision)
        built.query_prefix, built.document_prefix = query_prefix, document_prefix
        return built
    spec = Spec(
        pooling=pooling,
        attention=attention,
        template=template,
        append_eos=pooling == "last" if append_eos is None else append_eos,
        max_length=max_length,
        precision=precision,
    )
    model = load_backbone(source, dtype=dtype, trust_remote_code=trust_remote_code)
    set_attention(model, attention)
    built = cls(model, load_tokenizer(source, trust_remote_code=trust_remote_code), spec)
    built.query_prefix, built.document_prefix = query_prefix, document_prefix
    built.origin = {"backbone": backbone}
    return built.requires_grad_(False).eval().to(device)
