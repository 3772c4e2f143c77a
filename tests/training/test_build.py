"""The encoder that is trained: which dropout is active, what is float32."""

import pytest
import torch
from training.support import recipe
from transformers import BertConfig, BertModel, MistralConfig, MistralModel

from nvembed.training.build import build_encoder, set_dropout
from nvembed.training.chunks import make_chunk
from nvembed.training.job import Job

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}


def two_passes(backbone):
    ids = torch.arange(10)[None]
    return [backbone(input_ids=ids).last_hidden_state for _ in range(2)]


@pytest.mark.parametrize(
    "backbone",
    [
        BertModel(BertConfig(**SMALL, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.0)),
        BertModel(BertConfig(**SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)),
        MistralModel(MistralConfig(**SMALL, num_key_value_heads=2, attention_dropout=0.5)),
    ],
    ids=["hidden", "attention", "decoder"],
)
def test_the_backbones_dropout_is_the_stages(backbone):
    backbone.train()
    assert not torch.equal(*two_passes(backbone)), "its own configuration drops"
    set_dropout(backbone, 0.0)
    assert torch.equal(*two_passes(backbone))
    set_dropout(backbone, 0.5)
    assert not torch.equal(*two_passes(backbone))


def job(*overrides):
    made = recipe(*overrides)
    sections = {"stage": made.stage1.model_dump(mode="json"), "model": made.model.model_dump(mode="json")}
    return Job("stage1", **sections, dataset="", init=None, state="", resume=None, made_by={}, device="cpu", threads=1)


def test_loras_dropout_is_the_model_sections():
    model = build_encoder(job("model.lora.dropout=0.25"), torch.device("cpu")).model
    shares = {module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert shares == {0.25}


def test_trained_weights_are_float32_and_bf16_comes_by_autocast():
    encoder = build_encoder(job("model.precision=bfloat16"), torch.device("cpu"))
    assert encoder.precision == "bfloat16"
    assert {parameter.dtype for parameter in encoder.parameters() if parameter.requires_grad} == {torch.float32}


def test_frozen_linear_weights_are_kept_in_bf16_where_that_is_computed_in_and_nothing_changes():
    low, high = (build_encoder(job(f"model.precision={name}"), torch.device("cpu")) for name in ("bfloat16", "float32"))
    frozen = {p.dtype for n, p in low.model.backbone.named_parameters() if "base_layer.weight" in n}
    others = {p.dtype for n, p in low.model.named_parameters() if "base_layer" not in n}
    assert (frozen, others) == ({torch.bfloat16}, {torch.float32})
    high.precision = "bfloat16"  # by autocast alone
    items = low.model.tokenize(["one text", "and another, longer one"])
    chunks = [make_chunk(low.model, items, [0, 1], 7, packed=low.packed)]
    outputs = [encoder(chunks) for encoder in (low, high)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.sum().backward()
    gradients = [[p.grad for p in encoder.model.parameters() if p.requires_grad] for encoder in (low, high)]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
