"""How much of the pooling's block is trained: all of it, adapters alone, or nothing; and what is saved of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from modeling_helpers import DATA, TEXTS, furthest

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.modeling import check_section
from nvembed.modeling.latent import LatentAttention
from nvembed.modeling.lora import add_block_lora, merged_state
from nvembed.recipe import LoRA, Model

Section = Callable[..., Model]
Stir = Callable[[NVEmbedModel], NVEmbedModel]
LORA = LoRA(rank=4, alpha=8.0)
POOLINGS = ["latent", "self-attention"]
SAVED = str(DATA / "nvembed-tiny")


def asked(section: Section, pooling: str, train: str, **changes: object) -> Model:
    sizes = {"num_latents": 8, "num_heads": 2, "head_dim": 16}
    blocks = {"latent": {**sizes, "train": train}, "self_attention": {"num_heads": 2, "train": train}}
    return section(pooling=pooling, **blocks, **changes)


def of_block(model: NVEmbedModel) -> set[str]:
    return {name for name in model.trained_names if not name.startswith("backbone.")}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_adapters_alone_are_trained_on_every_linear_layer_of_the_block(section: Section, pooling: str) -> None:
    model = NVEmbedModel.from_section(asked(section, pooling, "lora"), trainable=True)
    block = model.latent or model.self_attention
    assert block is not None
    linear = [name for name, module in block.named_modules() if name.endswith("base_layer")]
    assert len(linear) == (5 if pooling == "latent" else 4)
    assert len(of_block(model)) == 2 * len(linear)
    assert all(".lora_" in name and name.startswith(("latent.", "self_attention.")) for name in of_block(model))
    assert {n for n, p in model.named_parameters() if p.requires_grad} == model.trained_names


def test_a_frozen_block_has_no_trained_tensor(section: Section) -> None:
    model = NVEmbedModel.from_section(section(backbone=SAVED, latent={"train": "frozen"}), trainable=True)
    assert model.latent is not None and of_block(model) == set() and model.trained_names
    assert not any(parameter.requires_grad for parameter in model.latent.parameters())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_at_first_the_adapters_change_nothing(section: Section, pooling: str) -> None:
    with_adapters, without = (
        NVEmbedModel.from_section(asked(section, pooling, train)).encode(TEXTS) for train in ("lora", "full")
    )
    assert furthest(with_adapters, without) == 0


def adapted_block(dtype: torch.dtype = torch.float64) -> LatentAttention:
    """A latent block whose adapters have moved; its heads are as wide as the states, as published."""
    torch.manual_seed(3)
    block = LatentAttention(16, num_latents=8, num_heads=2).to(dtype)
    add_block_lora(block, LORA, seed=1)
    block.to(dtype)
    with torch.no_grad():
        for parameter in block.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return block


def test_folded_and_plain_give_the_same_values_and_gradients_through_adapters() -> None:
    block = adapted_block()
    states = torch.randn(30, 16, dtype=torch.float64)
    found = {}
    for folded in (True, False):
        block.folded = folded
        out = block.train()(states)
        block.zero_grad()
        out.square().sum().backward()
        found[folded] = [out.detach(), *(p.grad.clone() for p in block.parameters() if p.requires_grad)]
    assert len(found[True]) == 11
    for one, other in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        assert other.abs().max() > 1e-3


def test_a_block_with_its_adapters_merged_computes_what_the_adapted_one_does() -> None:
    block, states = adapted_block(), torch.randn(30, 16, dtype=torch.float64)
    merged = LatentAttention(16, num_latents=8, num_heads=2).double()
    merged.load_state_dict(merged_state(block))
    for folded in (True, False):
        block.folded = merged.folded = folded
        torch.testing.assert_close(block.eval()(states), merged.eval()(states), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("adapter_only", [False, True])
def test_a_trained_block_survives_every_way_of_saving(
    section: Section, stirred: Stir, tmp_path: Path, pooling: str, adapter_only: bool
) -> None:
    wanted = asked(section, pooling, "lora")
    model = stirred(NVEmbedModel.from_section(wanted, trainable=True)).eval()
    expected = model.encode(TEXTS)
    untrained = NVEmbedModel.from_section(wanted)
    assert furthest(untrained.encode(TEXTS), expected) > 0.01
    model.save_trainable(tmp_path / "trained")
    assert furthest(NVEmbedModel.from_section(wanted, tmp_path / "trained").encode(TEXTS), expected) == 0
    model.save_pretrained(tmp_path / "whole", adapter_only=adapter_only)
    assert furthest(NVEmbedModel.from_pretrained(tmp_path / "whole").encode(TEXTS), expected) < 1e-5


@pytest.mark.parametrize("train", ["lora", "frozen"])
def test_a_published_block_is_tuned_and_saved_in_the_published_layout(
    section: Section, stirred: Stir, tmp_path: Path, train: str
) -> None:
    wanted = section(backbone=SAVED, latent={"train": train}, text_rule="nv-embed")
    model = stirred(NVEmbedModel.from_section(wanted, trainable=True)).eval()
    model.save_pretrained(tmp_path / "saved", layout="nv-embed")
    assert furthest(NVEmbedModel.from_pretrained(tmp_path / "saved").encode(TEXTS), model.encode(TEXTS)) < 1e-5
    before, after = (NVEmbedModel.from_pretrained(place).latent for place in (SAVED, tmp_path / "saved"))
    assert before is not None and after is not None
    moved = {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])}
    linear = {name for name, tensor in after.state_dict().items() if tensor.ndim == 2 and name != "latents"}
    assert moved == (linear if train == "lora" else set())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_block_that_nobody_trained_is_not_frozen(section: Section, pooling: str) -> None:
    with pytest.raises(UserError, match=r"train is frozen, but random:mistral-tiny brings no block"):
        check_section(asked(section, pooling, "frozen"))
    check_section(section(backbone=SAVED, latent={"train": "frozen"}))
