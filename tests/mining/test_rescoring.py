"""A cross-encoder scores as transformers and sentence-transformers do, in whatever company a pair is scored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizer_kinds import wordpiece
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from nvembed.core.errors import UserError
from nvembed.mining.rescoring import CrossEncoder
from nvembed.modeling import source

LENGTH = 48
SHAPE = {
    "vocab_size": 30522,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "num_labels": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {"bert": {}, "qwen2": {"num_key_value_heads": 2, "pad_token_id": None}}
QUERIES = ["who built the copper bridge?", "", "pepper", "how long is the river " * 20, "who built the copper bridge?"]
DOCUMENTS = [
    "The copper bridge was built by farmers.",
    "a text",
    "Farmers sell pepper at the market; lawyers write letters. " * 9,
    "It is long. " * 40,
    "",
]
PAIRS = [(query, document) for query in QUERIES for document in DOCUMENTS]


def save(folder: Path, family: str = "bert", **changes: Any) -> Path:
    torch.manual_seed(5)
    config = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES[family], **changes})
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    wordpiece().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("plain"))


def load(folder: Path, **options: Any) -> CrossEncoder:
    return CrossEncoder(str(folder), **{"max_length": LENGTH, "precision": "float32", **options})


def scores(model: CrossEncoder, pairs: list[tuple[str, str]] = PAIRS) -> np.ndarray:
    return model.scores([query for query, _ in pairs], [document for _, document in pairs])


def one_by_one(folder: Path) -> np.ndarray:
    """By transformers alone, a pair at a time, so without padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for query, document in PAIRS:
        # as lists: alone, an empty document would be taken for none
        inputs = tokenizer([query], [document], truncation=True, max_length=LENGTH, return_tensors="pt")
        with torch.no_grad():
            found.append(torch.sigmoid(model(**inputs).logits).item())
    return np.array(found)


def test_scores_are_those_of_transformers_one_by_one(folder: Path) -> None:
    found = scores(load(folder))
    assert found.dtype == np.float32
    assert np.ptp(found) > 0.1
    np.testing.assert_allclose(found, one_by_one(folder), atol=2e-6)


def test_scores_are_those_of_sentence_transformers(folder: Path) -> None:
    from sentence_transformers import CrossEncoder as Theirs

    model = Theirs(str(folder), max_length=LENGTH, device="cpu")
    model.model.config.pad_token_id = model.tokenizer.pad_token_id  # a decoder needs one for batches
    np.testing.assert_allclose(scores(load(folder)), model.predict(PAIRS, batch_size=3), atol=2e-6)


def test_batches_padding_and_order_change_no_score_beyond_rounding(folder: Path) -> None:
    whole = scores(load(folder))
    for tokens in (1, 200):  # a pair at a time, and a few
        np.testing.assert_allclose(scores(load(folder, batch_tokens=tokens)), whole, atol=2e-6)
    order = np.random.default_rng(3).permutation(len(PAIRS))
    np.testing.assert_allclose(scores(load(folder), [PAIRS[i] for i in order]), whole[order], atol=2e-6)


def test_equal_pairs_are_computed_once_and_score_alike(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(bert)
    seen: list[int] = []
    forward = model._forward
    monkeypatch.setattr(model, "_forward", lambda tokens, batch: seen.extend(batch) or forward(tokens, batch))
    found = scores(model, PAIRS * 3).reshape(3, -1)
    assert len(seen) == len(set(PAIRS)) < len(PAIRS)
    assert (found == found[0]).all()


def test_no_pairs_no_scores(bert: Path) -> None:
    assert scores(load(bert), []).shape == (0,)


def test_a_batch_that_does_not_fit_into_memory_is_halved(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(bert)
    whole = scores(model)
    forward = model._model.forward

    def short_of_memory(**inputs: torch.Tensor) -> Any:
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**inputs)

    monkeypatch.setattr(model._model, "forward", short_of_memory)
    np.testing.assert_allclose(scores(model), whole, atol=2e-6)

    def no_memory(**inputs: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model._model, "forward", no_memory)
    refused(lambda: scores(model), f"a single pair of {LENGTH} tokens does not fit .* lower max_length")


def test_the_fingerprint_follows_what_decides_a_score(bert: Path, tmp_path: Path) -> None:
    one = load(bert).fingerprint()
    assert load(bert, batch_tokens=64).fingerprint() == one
    copy = Path(shutil.copytree(bert, tmp_path / "copy"))
    assert load(copy).fingerprint() == one
    assert load(bert, max_length=LENGTH - 1).fingerprint() != one
    assert load(bert, precision="bfloat16").fingerprint() != one
    other = save(tmp_path / "other", initializer_range=0.31)
    assert load(other).fingerprint() != one


def test_bf16_is_near_float32(bert: Path) -> None:
    found = scores(load(bert, precision="bfloat16"))
    assert 0 < np.abs(found - scores(load(bert))).max() < 0.05


def refused(act: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert "model.backbone" not in str(caught.value)


def test_a_score_that_is_no_number_names_its_pair(bert: Path) -> None:
    model = load(bert)
    with torch.no_grad():
        model._model.bert.embeddings.word_embeddings.weight[model.tokenizer.convert_tokens_to_ids("pepper")] = np.nan
    assert np.isfinite(scores(model, PAIRS[:2])).all()
    refused(lambda: scores(model), "the score of 'who built the copper bridge.*' and 'Farmers sell .*' is no number")


@pytest.mark.parametrize("labels", [2, 3])
def test_a_classifier_of_several_labels_is_refused(tmp_path: Path, labels: int) -> None:
    folder = save(tmp_path / "model", num_labels=labels)
    refused(lambda: load(folder), f"scores {labels} labels; re-scoring needs a model with one")


def test_a_model_without_a_head_is_refused(bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert, tmp_path / "headless"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.bert.save_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).num_labels == 1
    refused(lambda: load(folder), r"tensor classifier\.\w+ is missing")
    refused(lambda: load(Path("random:mistral-tiny")), "brings no head that scores")


def test_pickled_weights_are_refused(bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert, tmp_path / "pickled"))
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(lambda: load(folder), "is a pickle, which can run code")


def test_more_tokens_than_positions_are_refused(bert: Path) -> None:
    refused(lambda: load(bert, max_length=65), "max_length is 65, but it has only 64 positions; set it to 64 or less")


def test_a_model_that_is_not_there_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "hub_answers", lambda: False)
    refused(lambda: CrossEncoder("./nowhere"), "^cross-encoder './nowhere': no such folder; check the path")
    refused(
        lambda: CrossEncoder("some-owner/no-such-reranker"),
        "^cross-encoder 'some-owner/no-such-reranker': is no folder here and cannot be had from the hub",
    )


def test_code_of_its_own_is_not_run(bert: Path, tmp_path: Path) -> None:
    import json

    folder = Path(shutil.copytree(bert, tmp_path / "own-code"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise RuntimeError('was run')")
    refused(lambda: load(folder), "asks for code of its own; set its trust_remote_code=true")
