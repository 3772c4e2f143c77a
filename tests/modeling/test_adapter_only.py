"""A trained model saved without its base: peft reads the adapter, ours puts all together, another base is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modeling_helpers import DATA, INSTRUCTION, MINILM, TEXTS, furthest
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, MistralConfig

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.modeling.source import find_source
from nvembed.recipe import Model

Section = Callable[..., Model]
Stir = Callable[[NVEmbedModel], NVEmbedModel]
LORA = {"rank": 4, "dropout": 0.0}


@pytest.fixture
def mistral(tmp_path: Path) -> Path:
    """A bare Mistral in a folder, with the published tokenizer."""
    folder = tmp_path / "base"
    torch.manual_seed(11)
    config = MistralConfig(
        vocab_size=558,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(DATA / "nvembed-tiny", trust_remote_code=False).save_pretrained(folder)
    return folder


@pytest.fixture
def trained(section: Section, stirred: Stir, mistral: Path) -> NVEmbedModel:
    return stirred(NVEmbedModel.from_section(section(backbone=str(mistral), lora=LORA), trainable=True)).eval()


def place_of(name: str, mistral: Path) -> str:
    return {"mistral": str(mistral), "published": str(DATA / "nvembed-tiny")}.get(name, name)


@pytest.mark.parametrize(
    ("base", "pooling"),
    [
        *(("mistral", pooling) for pooling in ("latent", "self-attention", "mean", "last")),
        *((base, "latent") for base in ("published", MINILM, "random:mistral-tiny")),
    ],
)
def test_base_adapter_and_block_together_are_the_trained_model(
    section: Section, stirred: Stir, mistral: Path, tmp_path: Path, base: str, pooling: str
) -> None:
    asked = section(backbone=place_of(base, mistral), pooling=pooling, lora=LORA, max_length=96)
    model = stirred(NVEmbedModel.from_section(asked, trainable=True)).eval()
    folder = model.save_pretrained(tmp_path / "out", adapter_only=True)
    files = {"adapter_config.json", "adapter_model.safetensors", "nvembed_adapter.json"}
    blocks = {"block.safetensors"} if pooling in ("latent", "self-attention") else set()
    assert {path.name for path in folder.iterdir()} == files | blocks
    again = NVEmbedModel.from_pretrained(folder)
    assert again.spec == model.spec
    for instruction in ("", INSTRUCTION):
        assert furthest(again.encode(TEXTS, instruction), model.encode(TEXTS, instruction)) < 1e-6
    assert furthest(again.encode(TEXTS), NVEmbedModel.from_section(asked).encode(TEXTS)) > 1e-3
    assert not any(parameter.requires_grad for parameter in again.parameters())
    whole = again.save_pretrained(tmp_path / "whole")
    assert furthest(NVEmbedModel.from_pretrained(whole).encode(TEXTS), model.encode(TEXTS)) < 1e-5
    anew = again.save_pretrained(tmp_path / "again", adapter_only=True)
    assert (anew / "adapter_model.safetensors").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("base", ["mistral", "published", MINILM])
@torch.no_grad()
def test_peft_puts_the_adapter_on_the_base_by_itself(
    section: Section, stirred: Stir, mistral: Path, tmp_path: Path, base: str
) -> None:
    from peft import PeftModel

    where = place_of(base, mistral)
    model = stirred(NVEmbedModel.from_section(section(backbone=where, lora=LORA), trainable=True)).eval()
    folder = model.save_pretrained(tmp_path / "out", adapter_only=True)
    bare: Any = AutoModel.from_pretrained(find_source(where).location)
    bare.config.is_causal = False
    ids, attended, _ = model.collate(model.tokenize(["who built it?"]), packed=False)
    inside = getattr(bare, "embedding_model", bare)
    before = inside(input_ids=ids, attention_mask=attended).last_hidden_state
    adapted = PeftModel.from_pretrained(bare, str(folder)).eval()
    assert adapted.peft_config["default"].base_model_name_or_path == where
    states = inside(input_ids=ids, attention_mask=attended).last_hidden_state
    expected = model.backbone(input_ids=ids, attention_mask=attended).last_hidden_state
    assert (before - expected).abs().max() > 1e-3, "the adapter does nothing: this test would prove nothing"
    assert (states - expected).abs().max() < 1e-5


def test_the_base_is_named_by_revision_and_digest_and_the_file_says_so(trained: NVEmbedModel, tmp_path: Path) -> None:
    folder = trained.save_pretrained(tmp_path / "out", adapter_only=True)
    described = json.loads((folder / "nvembed_adapter.json").read_text())
    assert described["base"] == {
        "backbone": trained.origin["backbone"],
        "revision": None,
        "backbone_digest": trained.origin["backbone_digest"],
    }
    adapter = load_file(folder / "adapter_model.safetensors")
    assert "base_model.model.layers.0.self_attn.q_proj.lora_A.weight" in adapter
    assert len(adapter) == 2 * 7 * 2
    assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000


def test_another_base_is_refused_and_a_moved_one_is_found(trained: NVEmbedModel, mistral: Path, tmp_path: Path) -> None:
    expected = trained.encode(TEXTS)
    folder = trained.save_pretrained(tmp_path / "out", adapter_only=True)
    moved = mistral.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="no such folder"):
        NVEmbedModel.from_pretrained(folder)
    assert furthest(NVEmbedModel.from_pretrained(folder, base=str(moved)).encode(TEXTS), expected) < 1e-6
    weights = load_file(moved / "model.safetensors")
    weights["norm.weight"] += 1
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    for base in (str(moved), MINILM):
        with pytest.raises(UserError, match=r"is another model.*give the base that it was trained on") as refused:
            NVEmbedModel.from_pretrained(folder, base=base)
        assert "\n" not in str(refused.value)


def test_adapters_are_stored_in_the_type_asked_for(trained: NVEmbedModel, tmp_path: Path) -> None:
    folder = trained.save_pretrained(tmp_path / "out", adapter_only=True, dtype="bfloat16")
    for file in ("adapter_model.safetensors", "block.safetensors"):
        assert {tensor.dtype for tensor in load_file(folder / file).values()} == {torch.bfloat16}
    loaded = NVEmbedModel.from_pretrained(folder)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert 0 < furthest(loaded.encode(TEXTS), trained.encode(TEXTS)) < 2e-2
    assert {
        parameter.dtype for parameter in NVEmbedModel.from_pretrained(folder, dtype=torch.bfloat16).parameters()
    } == {torch.bfloat16}


def test_a_bad_adapter_folder_is_refused_and_leaves_nothing(trained: NVEmbedModel, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    with torch.no_grad():  # the base in memory is no longer the one that the folder names
        trained.backbone.get_parameter("layers.0.mlp.down_proj.base_layer.weight").mul_(-3)
    with pytest.raises(RuntimeError, match="NVEmbedModel gives other vectors"):
        trained.save_pretrained(tmp_path / "out", adapter_only=True)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert trained.save_pretrained(tmp_path / "out", adapter_only=True, check=False).is_dir()


def test_a_model_without_adapter_or_base_cannot_be_saved_so(
    section: Section, trained: NVEmbedModel, tmp_path: Path
) -> None:
    full = NVEmbedModel.from_section(section(lora={"enabled": False}))
    with pytest.raises(UserError, match="has no adapter"):
        full.save_pretrained(tmp_path / "out", adapter_only=True)
    merged = NVEmbedModel.from_pretrained(full.save_pretrained(tmp_path / "merged"))
    with pytest.raises(UserError, match="does not know its base"):
        merged.save_pretrained(tmp_path / "out", adapter_only=True)
    with pytest.raises(UserError, match="neither a layout nor instructions"):
        trained.save_pretrained(tmp_path / "out", "nv-embed", adapter_only=True)
    assert not (tmp_path / "out").exists()


def damage(folder: Path, how: str) -> None:
    file = folder / "block.safetensors"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "missing":
        tensors = load_file(file)
        tensors.pop("latent_attention_model.latents")
        save_file(tensors, file)
    elif how == "gone":
        file.unlink()
    elif how == "rank":
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 3}))
    else:
        (folder / "nvembed_adapter.json").write_text(how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "block.safetensors: not a whole safetensors file"),
        ("missing", r"tensor latent_attention_model\.latents is missing"),
        ("gone", "block.safetensors: not a whole safetensors file"),
        ("rank", r"lora_A\.weight has shape \(4, .*\), not \(3, "),
        ("{", "nvembed_adapter.json: cannot be read"),
        ('{"format": 2}', "format 2 was written by a later version"),
        ('{"format": 1, "base": {}, "dtype": "float32"}', "nvembed_adapter.json: cannot be read"),
    ],
)
def test_a_damaged_adapter_folder_is_refused_in_one_line(
    trained: NVEmbedModel, tmp_path: Path, how: str, message: str
) -> None:
    folder = trained.save_pretrained(tmp_path / "out", adapter_only=True)
    damage(folder, how)
    with pytest.raises(UserError, match=message) as refused:
        NVEmbedModel.from_pretrained(folder)
    assert "\n" not in str(refused.value)


def test_a_pickled_adapter_is_not_read(trained: NVEmbedModel, tmp_path: Path) -> None:
    folder = trained.save_pretrained(tmp_path / "out", adapter_only=True)
    shutil.move(folder / "adapter_model.safetensors", tmp_path / "aside")
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: not a whole safetensors file"):
        NVEmbedModel.from_pretrained(folder)
