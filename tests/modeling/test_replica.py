"""Encoding in bf16 goes through a bf16 copy of the backbone: right, kept while right, and no part of the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nvembed.modeling import NVEmbedModel, replica
from nvembed.modeling.replica import in_half

TEXTS = [
    "a short text",
    "a longer text, with a comma and a few more words in it than the others have",
    "x",
    "another one",
]


@pytest.fixture
def model(section) -> NVEmbedModel:  # type: ignore[no-untyped-def]
    return NVEmbedModel.from_section(section())


def in_bf16(model: NVEmbedModel, texts: list[str] = TEXTS) -> np.ndarray:
    return model.encode(texts, precision="bfloat16")


def test_bf16_vectors_are_float32_ones_up_to_rounding(model: NVEmbedModel) -> None:
    exact, rounded = model.encode(TEXTS, precision="float32"), in_bf16(model)
    assert (exact * rounded).sum(1).min() > 0.999
    assert np.abs(exact - rounded).max() > 0, "float32 was computed: this shows nothing"


def test_a_text_alone_equals_the_text_in_a_batch_in_bf16(model: NVEmbedModel) -> None:
    alone = np.vstack([in_bf16(model, [text]) for text in TEXTS])
    np.testing.assert_allclose(alone, in_bf16(model), atol=5e-3)


def test_the_copys_parameters_are_bf16_and_its_buffers_as_they_were(model: NVEmbedModel) -> None:
    copied = in_half(model).backbone
    assert {p.dtype for p in copied.parameters()} == {torch.bfloat16}
    assert {name: b.dtype for name, b in copied.named_buffers()} == {
        name: b.dtype for name, b in model.backbone.named_buffers()
    }
    assert any(b.dtype == torch.float32 for b in copied.buffers()), "no rotary frequencies: this shows nothing"


def test_the_copy_is_made_once(model: NVEmbedModel) -> None:
    assert in_half(model).backbone is in_half(model).backbone


def test_the_copy_is_made_anew_when_weights_change(model: NVEmbedModel) -> None:
    before = in_bf16(model)
    with torch.no_grad():
        next(p for name, p in model.backbone.named_parameters() if "q_proj" in name).mul_(3)
    assert np.abs(in_bf16(model) - before).max() > 1e-3


def test_the_model_itself_stays_as_it_was(model: NVEmbedModel) -> None:
    names, fingerprint = set(model.state_dict()), model.fingerprint()
    in_bf16(model)
    assert set(model.state_dict()) == names
    assert model.fingerprint() == fingerprint
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_training_forgets_the_copy(model: NVEmbedModel) -> None:
    in_bf16(model)
    model.train()
    assert model.half_backbone is None


def test_a_model_in_bf16_and_one_too_large_are_not_copied(model: NVEmbedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "LARGEST_BYTES", 1)
    assert in_half(model) is model
    monkeypatch.undo()
    model.backbone.to(torch.bfloat16)
    assert in_half(model) is model
