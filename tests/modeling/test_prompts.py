"""Sentence Transformers counts a prompt's tokens by itself; ours decides which tokens are pooled. They must agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizer_kinds
import torch
from modeling_helpers import furthest
from transformers import AutoModel, MistralConfig, PreTrainedTokenizerFast

from nvembed import NVEmbedModel
from nvembed.modeling.spec import LatentSpec, Spec

INSTRUCTION = "find it"
PROMPT = "Instruct: find it\nQuery: "
TEXTS = ["who", " who", "  who", "", "2", " 2", "who where which what " * 30, "bridge", "études"]
KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "llama": tokenizer_kinds.llama,
    "byte_level": tokenizer_kinds.byte_level,
    "byte_bpe": tokenizer_kinds.byte_bpe,
    "wordpiece": tokenizer_kinds.wordpiece,
    "unigram": tokenizer_kinds.unigram,
    "unigram_words_first": lambda: tokenizer_kinds.unigram(words_first=True),
}
# how many tokens of TEXTS[:6] are pooled behind the prompt: where the prompt's last piece merges with the text, the
# prompt's own count would say one less
POOLED = {
    ("llama", "nv-embed"): [2, 3, 4, 2, 3, 4],
    ("llama", "offset"): [2, 2, 3, 1, 2, 3],
    ("byte_level", "offset"): [4, 5, 6, 1, 2, 3],
    ("byte_bpe", "offset"): [2, 2, 3, 1, 2, 3],
    ("wordpiece", "offset"): [2, 2, 2, 1, 2, 2],
    ("unigram", "offset"): [3, 3, 3, 1, 2, 2],
    ("unigram_words_first", "offset"): [3, 3, 3, 1, 3, 3],
}


def make_model(kind: str, layout: str, pooling: str) -> NVEmbedModel:
    tokenizer = KINDS[kind]()
    torch.manual_seed(5)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
        sliding_window=None,
        is_causal=False,
    )
    latent = LatentSpec(num_latents=4, num_heads=2, head_dim=8) if pooling == "latent" else None
    spec = Spec(pooling=pooling, latent=latent, layout=layout, max_length=64)  # type: ignore[arg-type]
    return NVEmbedModel(AutoModel.from_config(config), tokenizer, spec, latent.build(16) if latent else None).eval()


@pytest.mark.parametrize("pooling", ["latent", "mean", "last"])
@pytest.mark.parametrize(("kind", "layout"), POOLED)
def test_a_prompt_is_masked_as_the_text_rule_says(kind: str, layout: str, pooling: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = make_model(kind, layout, pooling)
    folder = model.save_pretrained(tmp_path / "out", instructions={"query": INSTRUCTION}, check=False)
    items = model.tokenize(TEXTS[:6], INSTRUCTION)
    assert [sum(item.pool_mask) for item in items] == POOLED[kind, layout]
    loaded = SentenceTransformer(str(folder), device="cpu")
    plain, instructed = model.encode(TEXTS), model.encode(TEXTS, INSTRUCTION)
    assert furthest(loaded.encode(TEXTS), plain) < 1e-5
    assert furthest(loaded.encode(TEXTS, prompt_name="query"), instructed) < 1e-5
    assert furthest(loaded.encode(TEXTS, prompt=PROMPT), instructed) < 1e-5
    alone = [loaded.encode([text], prompt_name="query") for text in TEXTS]
    assert max(furthest(one, instructed[place : place + 1]) for place, one in enumerate(alone)) < 1e-5
    again = NVEmbedModel.from_pretrained(folder)
    assert furthest(again.encode(TEXTS, INSTRUCTION), instructed) < 1e-5


@pytest.mark.parametrize(("kind", "layout"), POOLED)
def test_padding_on_the_left_changes_nothing(kind: str, layout: str, tmp_path: Path) -> None:
    """A tool may pad as it likes: a prompt's places are counted from where a text begins."""
    from sentence_transformers import SentenceTransformer

    model = make_model(kind, layout, "latent")
    folder = model.save_pretrained(tmp_path / "out", check=False)
    loaded = SentenceTransformer(str(folder), device="cpu")
    loaded.tokenizer.padding_side = "left"
    assert furthest(loaded.encode(TEXTS, prompt=PROMPT), model.encode(TEXTS, INSTRUCTION)) < 1e-5


def test_a_pooled_token_more_or_less_would_show() -> None:
    """The comparison above is worth something: leaving out one pooled token moves the vector far beyond 1e-5."""
    model = make_model("byte_bpe", "offset", "mean")
    ids, attended, pooled = model.collate(model.tokenize(["who"], INSTRUCTION), packed=False)
    fewer = pooled.clone()
    fewer[0, int(pooled[0].long().argmax())] = False
    with torch.no_grad():
        assert float((model(ids, attended, pooled) - model(ids, attended, fewer)).abs().max()) > 1e-2
