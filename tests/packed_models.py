"""Small random backbones of many families as embedding models, which the tests of packing share."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from nvembed import NVEmbedModel
from nvembed.modeling.attention import set_attention
from nvembed.modeling.random_backbone import byte_tokenizer
from nvembed.modeling.spec import LatentSpec, Spec

SHAPE = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # wide, so that attention is far from even and a leak shows
}
WINDOW = 4  # far less than the texts
DECODERS = {
    "mistral": ("mistral", {}),
    "mistral with a window": ("mistral", {"sliding_window": WINDOW}),
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "gemma2": ("gemma2", {"head_dim": 8, "sliding_window": WINDOW}),
    "gemma3": ("gemma3_text", {"head_dim": 8, "sliding_window": WINDOW, "layer_types": None}),
}
ENCODERS = {
    "embeddinggemma": ("gemma3_text", {"head_dim": 8, "sliding_window": 8, "use_bidirectional_attention": True}),
    "bert": ("bert", {}),
    "roberta": ("roberta", {"pad_token_id": 2}),  # positions begin at 3, and the end token has none
    "modernbert": ("modernbert", {"local_attention": WINDOW}),
}
CASES = [(name, attention) for name in DECODERS for attention in ("bidirectional", "causal")]
CASES += [(name, "bidirectional") for name in ENCODERS]
TEXTS = [
    "who built it?",
    "",
    "a",
    "café and more words than the others have, so it is longer",
    "who built me?",
    "b" * 40,
]


def make_backbone(name: str, attention: str = "bidirectional", **changes: Any) -> Any:
    """A seeded backbone in eval mode, as transformers makes it, attention switched."""
    family, own = {**DECODERS, **ENCODERS}[name]
    special = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    values = {**SHAPE, **special, **own, **changes}
    torch.manual_seed(3)
    backbone = AutoModel.from_config(AutoConfig.for_model(family, **values)).eval()
    set_attention(backbone, attention)  # type: ignore[arg-type]
    return backbone


def make_model(
    name: str = "mistral", attention: str = "bidirectional", pooling: str = "mean", **changes: Any
) -> NVEmbedModel:
    """The backbone as an embedding model; bytes are its tokens."""
    latent = LatentSpec(num_latents=8, num_heads=2, head_dim=16) if pooling == "latent" else None
    spec = Spec(pooling=pooling, attention=attention, latent=latent)  # type: ignore[arg-type]
    backbone = make_backbone(name, attention, **changes)
    return NVEmbedModel(backbone, byte_tokenizer(), spec, latent.build(32) if latent else None).eval()


def vectors(model: NVEmbedModel, texts: list[str], *, packed: bool) -> torch.Tensor:
    """Vectors of one batch in the form asked for."""
    return model(*model.collate(model.tokenize(texts), packed=packed))


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference."""
    assert one.shape == other.shape
    return float((one - other).detach().abs().max())
