"""Backbones of many families by transformers' Auto classes: trained, saved and loaded everywhere with equal vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modeling_helpers import INSTRUCTION, TEXTS, furthest
from transformers import AutoConfig, AutoModel, AutoTokenizer

from nvembed import NVEmbedModel
from nvembed.modeling import check_section
from nvembed.modeling.random_backbone import byte_tokenizer
from nvembed.recipe import Model

Section = Callable[..., Model]
Stir = Callable[[NVEmbedModel], NVEmbedModel]
PROMPT = f"Instruct: {INSTRUCTION}\nQuery: "
WINDOW = 4

SMALL = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2, "rms_norm_eps": 1e-6}
GEMMA = {**GROUPED, "head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {**GROUPED, "sliding_window": WINDOW},
    "llama": {**GROUPED, "rope_theta": 5e5},
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 16},
    "gemma": GEMMA,
    "gemma2": {**GEMMA, "sliding_window": WINDOW, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        **GEMMA,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "bert": {},
    "roberta": {"max_position_embeddings": 514},
    "xlm-roberta": {"max_position_embeddings": 514},
    "modernbert": {"local_attention": WINDOW, "global_attn_every_n_layers": 3},
}
DECODERS = ["mistral", "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"]


@pytest.fixture
def backbone(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A small model of the family with random weights, norms included, beside a tokenizer of bytes."""
    folder = tmp_path / "backbone"
    torch.manual_seed(13)
    model = AutoModel.from_config(AutoConfig.for_model(request.param, **{**SMALL, **FAMILIES[request.param]}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def by_plain_transformers(folder: Path, text: str) -> np.ndarray:
    """Mean of a bare model's states with its own slowest attention, the causal mask off as transformers says to."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    model.config.is_causal = False
    if model.config.model_type == "mistral":  # a window of all layers goes with the causal mask, as published
        model.config.sliding_window = None
    tokens = AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")
    return torch.nn.functional.normalize(model(**tokens).last_hidden_state[0].mean(0), dim=0).numpy()[None]


@pytest.mark.parametrize("backbone", FAMILIES, indirect=True)
def test_the_backbone_is_transformers_own_looking_both_ways(section: Section, backbone: Path) -> None:
    """Gemma's scaled embeddings and sliding layers, Qwen3's norms of queries and keys and the like included."""
    text = "who built the copper bridge over the river?"
    model = NVEmbedModel.from_section(section(backbone=str(backbone), pooling="mean", lora={"enabled": False}))
    assert furthest(model.encode([text]), by_plain_transformers(backbone, text)) < 1e-5


@pytest.mark.parametrize("backbone", DECODERS, indirect=True)
def test_a_decoder_of_any_family_attends_as_asked(section: Section, backbone: Path) -> None:
    one, other = "who built it?", "who built it!"
    for attention, moves in (("bidirectional", True), ("causal", False)):
        asked = section(backbone=str(backbone), pooling="mean", attention=attention, append_eos=False)
        model = NVEmbedModel.from_section(asked)
        states = []
        for text in (one, other):
            ids, attended, _ = model.collate(model.tokenize([text]), packed=False)
            with torch.no_grad():  # the last token but the tokenizer's own end token
                states.append(model.backbone(input_ids=ids, attention_mask=attended).last_hidden_state[0, 0])
        assert bool((states[0] - states[1]).abs().max() > 1e-6) == moves


@pytest.mark.parametrize("backbone", FAMILIES, indirect=True)
def test_a_trained_model_of_any_family_is_the_same_through_every_loader(
    section: Section, stirred: Stir, backbone: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    asked = section(backbone=str(backbone), lora={"rank": 4, "dropout": 0.0})
    check_section(asked)
    model = stirred(NVEmbedModel.from_section(asked, trainable=True)).eval()
    folder = model.save_pretrained(tmp_path / "out", instructions={"query": INSTRUCTION}, check=False)
    plain, instructed = model.encode(TEXTS), model.encode(TEXTS, INSTRUCTION)
    assert furthest(plain, NVEmbedModel.from_section(asked).encode(TEXTS)) > 1e-3, "not stirred: proves nothing"

    again = NVEmbedModel.from_pretrained(folder)
    assert furthest(again.encode(TEXTS), plain) < 1e-5
    assert furthest(again.encode(TEXTS, INSTRUCTION), instructed) < 1e-5
    loaded = SentenceTransformer(str(folder), device="cpu")
    assert furthest(loaded.encode(TEXTS), plain) < 1e-5
    assert furthest(loaded.encode(TEXTS, prompt_name="query"), instructed) < 1e-5
    assert furthest(by_auto_model(folder, TEXTS, ""), plain) < 1e-5
    assert furthest(by_auto_model(folder, TEXTS, PROMPT), instructed) < 1e-5


@torch.no_grad()
def by_auto_model(folder: Path, texts: list[str], prompt: str) -> np.ndarray:
    """AutoModel's token states, averaged by hand over the text's own bytes and the end token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer([prompt + text for text in texts], padding=True, truncation=True, return_tensors="pt")
    states = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    pooled = tokens["attention_mask"].clone()
    if prompt:
        pooled[:, : 1 + len(prompt.encode())] = 0  # the begin token, then a token a byte
    means = (states * pooled.unsqueeze(-1)).sum(1) / pooled.sum(1, keepdim=True)
    return torch.nn.functional.normalize(means, dim=-1).numpy()


@pytest.mark.parametrize("backbone", ["gemma", "qwen3"], indirect=True)
def test_tied_word_embeddings_are_written_once(section: Section, backbone: Path, tmp_path: Path) -> None:
    """Such a checkpoint has no output layer of its own, or one that an embedding model does not need."""
    from safetensors.torch import load_file

    model = NVEmbedModel.from_section(section(backbone=str(backbone), lora={"enabled": False}))
    folder = model.save_pretrained(tmp_path / "out")
    words = [name for name, tensor in load_file(folder / "model.safetensors").items() if tensor.shape == (259, 32)]
    assert words == ["embedding_model.embed_tokens.weight"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backbone", ["mistral", "bert"], indirect=True)
def test_half_precision_loads_and_computes_on_a_cpu(
    section: Section, backbone: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    exact = NVEmbedModel.from_section(section(backbone=str(backbone)))
    folder = exact.save_pretrained(tmp_path / "out", dtype=dtype)
    half = NVEmbedModel.from_pretrained(folder, dtype=dtype)
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    vectors = half.encode(TEXTS, INSTRUCTION)
    assert vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert 0 < furthest(vectors, exact.encode(TEXTS, INSTRUCTION)) < 0.05
    assert {parameter.dtype for parameter in NVEmbedModel.from_pretrained(folder).parameters()} == {torch.float32}
