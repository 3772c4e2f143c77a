"""Encoding promises: input order, equal texts once, any iterable, token budgets, a cache that serves only its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from modeling_helpers import INSTRUCTION, TEXTS, furthest

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.encoding import encode, encode_cached
from nvembed.modeling.batching import cpu_has_bf16, resolve_precision, token_batches
from nvembed.modeling.plan import make_plan
from nvembed.recipe import load_recipe


@pytest.fixture
def tokens_seen(model: NVEmbedModel) -> list[tuple[int, int]]:
    """Shapes of the batches that go through the real backbone."""
    shapes: list[tuple[int, int]] = []
    handle = model.backbone.register_forward_pre_hook(
        lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    handle.remove()


def test_vectors_come_in_input_order_whatever_the_budget(model: NVEmbedModel) -> None:
    alone = np.concatenate([encode(model, [text]) for text in TEXTS])
    for budget in (1, 64, 200, 16384):
        assert furthest(encode(model, TEXTS, batch_tokens=budget), alone) < 1e-6


def test_batches_keep_to_the_token_budget_and_hold_texts_of_like_length(
    model: NVEmbedModel, tokens_seen: list[tuple[int, int]]
) -> None:
    encode(model, [f"{i} " * (i % 17 + 1) for i in range(60)], batch_tokens=256)
    assert all(rows * width <= 256 for rows, width in tokens_seen)
    assert len(tokens_seen) > 3
    widths = [width for _, width in tokens_seen]
    assert widths == sorted(widths, reverse=True)


def test_a_text_longer_than_the_budget_goes_alone() -> None:
    assert list(token_batches([5, 300, 7], 100)) == [[1], [2, 0]]


def test_equal_texts_are_encoded_once(model: NVEmbedModel, tokens_seen: list[tuple[int, int]]) -> None:
    vectors = encode(model, ["who", "what", "who"] * 20)
    assert sum(rows for rows, _ in tokens_seen) == 2
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])


def test_progress_is_told_in_texts_up_to_the_last(
    model: NVEmbedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVEMBED_PROGRESS", str(tmp_path / "progress.jsonl"))
    encode(model, [f"text {n} " * n for n in range(40)] + ["text 1 "], batch_tokens=256, label="passages")
    told = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    counts = [event["done"] for event in told]
    assert {(event["event"], event["label"], event["total"]) for event in told} == {("progress", "passages", 41)}
    assert counts == sorted(counts)
    assert 0 < counts[0] < 40, "the first batch is told of at once"
    assert counts[-1] == 41


def test_any_iterable_will_do(model: NVEmbedModel) -> None:
    assert furthest(encode(model, (text for text in TEXTS)), encode(model, tuple(TEXTS))) == 0


def test_no_texts_give_an_empty_array_of_the_right_width(model: NVEmbedModel) -> None:
    for vectors in (encode(model, []), encode_cached(model, []), model.encode([])):
        assert vectors.shape == (0, 32)
        assert vectors.dtype == np.float32


@pytest.mark.parametrize("texts", [["a", None], [b"a"], "a lone text", [1.5], ["\ud800 half a pair"]])
def test_what_is_no_list_of_strings_is_refused(model: NVEmbedModel, texts: list[str]) -> None:
    for function in (encode, encode_cached):
        with pytest.raises(UserError, match="texts"):
            function(model, texts)


def test_an_instruction_without_room_for_text_is_refused_even_for_no_texts(model: NVEmbedModel) -> None:
    for texts in (["a"], []):
        with pytest.raises(UserError, match="leaves no room for text"):
            encode(model, texts, instruction="find it " * 30)


def test_encoding_a_model_in_training_drops_nothing_out_and_leaves_it_as_it_was() -> None:
    section = load_recipe("tiny", ["model.lora.dropout=0.5"]).model
    trained = NVEmbedModel.from_section(section, trainable=True)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:  # as long as it is zero, nothing of the adapter comes through
                parameter.normal_(std=0.2)
        batch = trained.collate(trained.tokenize(TEXTS))
        assert float((trained(*batch) - trained(*batch)).abs().max()) > 1e-3, "no dropout: this proves nothing"
    vectors = encode(trained, TEXTS, precision="float32")
    assert trained.training
    assert furthest(vectors, encode(trained.eval(), TEXTS, precision="float32")) == 0


def test_automatic_precision_follows_the_processor() -> None:
    assert resolve_precision("auto", torch.device("cpu")) == ("bfloat16" if cpu_has_bf16() else "float32")
    assert resolve_precision("float32", torch.device("cpu")) == "float32"


def test_on_a_gpu_auto_leaves_half_precision_weights_as_they_are_and_takes_bf16_for_others(
    model: NVEmbedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published checkpoint is fp16: cast to bf16 it would lose three bits of each weight and gain nothing."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    half = NVEmbedModel.from_section(load_recipe("tiny").model, dtype=torch.float16)
    plans = [make_plan(each, precision="auto", devices=["cuda:0"]) for each in (half, model)]
    assert [plan.settings(each)["computed_in"] for plan, each in zip(plans, (half, model), strict=True)] == [
        "float16",
        "bfloat16",
    ]
    half.latent.float()
    assert make_plan(half, precision="auto", devices=["cuda:0"]).compute == "bfloat16", "autocast joins the two types"


def test_float32_is_not_promised_of_weights_that_have_lost_it() -> None:
    half = NVEmbedModel.from_section(load_recipe("tiny").model, dtype=torch.bfloat16)
    with pytest.raises(UserError, match=r"weights are bfloat16; load it with dtype=torch\.float32"):
        half.encode(TEXTS, precision="float32")
    assert half.encode(TEXTS).shape == (len(TEXTS), 32)


def test_the_cache_returns_what_encoding_does_and_encodes_nothing_again(
    model: NVEmbedModel, tokens_seen: list[tuple[int, int]]
) -> None:
    first = encode_cached(model, TEXTS, instruction=INSTRUCTION)
    assert furthest(first, encode(model, TEXTS, instruction=INSTRUCTION)) == 0
    tokens_seen.clear()
    assert furthest(encode_cached(model, TEXTS, instruction=INSTRUCTION), first) == 0
    assert tokens_seen == []


def test_the_cache_serves_nothing_of_other_texts_instructions_lengths_precisions_or_weights(
    model: NVEmbedModel, tokens_seen: list[tuple[int, int]]
) -> None:
    other = NVEmbedModel.from_section(load_recipe("tiny", ["model.seed=18"]).model)
    encode_cached(model, TEXTS)
    calls = [
        lambda: encode_cached(model, TEXTS[::-1]),
        lambda: encode_cached(model, ["".join(TEXTS)]),
        lambda: encode_cached(model, TEXTS, instruction=INSTRUCTION),
        lambda: encode_cached(model, TEXTS, max_length=20),
        lambda: encode_cached(model, TEXTS, precision="bfloat16"),
    ]
    for call in calls:
        tokens_seen.clear()
        call()
        assert tokens_seen
    assert furthest(encode_cached(other, TEXTS), encode(other, TEXTS)) == 0


def test_a_failed_encoding_leaves_no_file_in_the_cache(
    model: NVEmbedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="disk full"):
        encode_cached(model, TEXTS)
    assert [path for path in (tmp_path / "state").rglob("*") if path.is_file() and path.name != ".lock"] == []
    monkeypatch.undo()
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    assert furthest(encode_cached(model, TEXTS), encode(model, TEXTS)) == 0
