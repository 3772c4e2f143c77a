"""A backbone in 4 bits while adapters on it are trained: what is quantised, what is not, and that none of it stays."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from modeling_helpers import DATA, TEXTS, furthest

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.modeling import check_section
from nvembed.recipe import Model, load_recipe

Section = Callable[..., Model]
Stir = Callable[[NVEmbedModel], NVEmbedModel]
SAVED = str(DATA / "nvembed-tiny")
installed = pytest.mark.skipif(
    not importlib.util.find_spec("bitsandbytes"), reason="the extra `quant` is not installed"
)


def kinds(module: torch.nn.Module) -> set[str]:
    """Types of the weights that are not trained, by name of type and dtype."""
    frozen = [p for p in module.parameters() if not p.requires_grad]
    return {f"{type(p).__name__} {str(p.dtype).removeprefix('torch.')}" for p in frozen}


@installed
@pytest.mark.parametrize("backbone", ["random:mistral-tiny", SAVED], ids=["bare", "saved"])
def test_the_frozen_linear_layers_are_in_four_bits_and_the_block_is_not(section: Section, backbone: str) -> None:
    model = NVEmbedModel.from_section(section(backbone=backbone, quantization="nf4"), trainable=True)
    assert kinds(model.backbone) == {"Params4bit uint8", "Parameter float32"}
    kept = {n for n, p in model.backbone.named_parameters() if p.dtype == torch.float32 and not p.requires_grad}
    assert all("norm" in name or "embed_tokens" in name for name in kept)
    assert model.latent is not None
    assert {(type(p).__name__, p.dtype) for p in model.latent.parameters()} == {("Parameter", torch.float32)}
    plain = NVEmbedModel.from_section(section(backbone=backbone), trainable=True)
    assert model.trained_names == plain.trained_names
    assert model.origin == plain.origin


@installed
def test_it_comes_near_the_original_and_gradients_reach_every_adapter(section: Section) -> None:
    wanted = {"lora": {"rank": 4, "dropout": 0.0}, "pooling": "mean"}
    four, full = (
        NVEmbedModel.from_section(section(quantization=kind, **wanted), trainable=True) for kind in ("nf4", "none")
    )
    one, other = (model.eval().encode(TEXTS) for model in (four, full))
    assert furthest(one, other) > 1e-4 and (1 - (one * other).sum(1)).max() < 0.1
    with torch.no_grad():
        for name, parameter in four.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    batch = four.collate(four.tokenize(TEXTS[:2]))
    four.train()(*batch)[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in four.named_parameters() if p.requires_grad)


@installed
def test_what_was_trained_on_four_bits_is_merged_onto_the_original_weights(
    section: Section, stirred: Stir, tmp_path: Path
) -> None:
    wanted = section(quantization="nf4", lora={"rank": 4, "dropout": 0.0})
    trained = stirred(NVEmbedModel.from_section(wanted, trainable=True))
    trained.save_trainable(tmp_path / "trained")
    model = NVEmbedModel.from_section(wanted, tmp_path / "trained")
    assert kinds(model) == {"Parameter float32"}
    model.save_pretrained(tmp_path / "whole")
    assert furthest(NVEmbedModel.from_pretrained(tmp_path / "whole").encode(TEXTS), model.encode(TEXTS)) < 1e-5
    plain = NVEmbedModel.from_section(section(lora={"rank": 4, "dropout": 0.0}), tmp_path / "trained")
    assert furthest(plain.encode(TEXTS), model.encode(TEXTS)) == 0
    assert "quantization_config" not in (tmp_path / "whole" / "config.json").read_text()


def test_it_is_refused_where_bitsandbytes_is_missing(section: Section, monkeypatch: pytest.MonkeyPatch) -> None:
    check_section(section())  # what it takes besides is imported now, whichever tests ran before
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(UserError, match=r"bitsandbytes is not installed; pip install 'nvembed\[quant\]'"):
        check_section(section(quantization="nf4"))


def test_four_bits_without_adapters_are_refused_with_the_recipe() -> None:
    with pytest.raises(UserError, match=r"quantization is nf4, but lora.enabled is false"):
        load_recipe("tiny", ["model.quantization=nf4", "model.lora.enabled=false"])
