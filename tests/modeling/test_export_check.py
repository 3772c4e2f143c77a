"""Every export is read back before it takes its place; one that gives other vectors leaves nothing."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modeling_helpers import DATA
from safetensors.torch import load_file, save_file

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.modeling.checkpoint import write_model
from nvembed.modeling.export_check import check_tensors
from nvembed.recipe import Model

Section = Callable[..., Model]
LAYOUTS = ["sentence-transformers", "nv-embed"]
DTYPES = ["float32", "bfloat16", "float16"]


@pytest.fixture
def model() -> NVEmbedModel:
    return NVEmbedModel.from_pretrained(DATA / "nvembed-tiny")


def spoil_a_weight_on_its_way(model: NVEmbedModel) -> None:
    """What is saved is another weight than the model computes with."""

    def change(module: Any, state: dict[str, torch.Tensor], prefix: str, *_: Any) -> None:
        name = f"{prefix}layers.0.mlp.down_proj.weight"
        state[name] = state[name] * -3

    model.backbone.register_state_dict_post_hook(change)


def spoil_the_configuration(model: NVEmbedModel) -> None:
    """The weights are right, but the folder says to compute with them otherwise."""
    model.backbone.config.rms_norm_eps = 10.0


SPOILERS = [spoil_a_weight_on_its_way, spoil_the_configuration]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sound_export_passes_in_every_layout_and_dtype(
    model: NVEmbedModel, tmp_path: Path, layout: Any, dtype: str
) -> None:
    differences = write_model(model, tmp_path, layout, dtype=dtype)
    loaders = {"NVEmbedModel", "AutoModel"} | ({"SentenceTransformer"} if layout == "sentence-transformers" else set())
    assert set(differences) == loaders
    assert max(differences.values()) < {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-3}[dtype]
    assert {str(tensor.dtype) for tensor in load_file(tmp_path / "model.safetensors").values()} == {f"torch.{dtype}"}


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bad_export_is_refused_and_leaves_nothing(
    model: NVEmbedModel, tmp_path: Path, layout: Any, dtype: str, spoil: Callable[[NVEmbedModel], None]
) -> None:
    spoil(model)
    with pytest.raises(RuntimeError, match="NVEmbedModel gives other vectors without an instruction") as refused:
        model.save_pretrained(tmp_path / "out", layout, dtype=dtype)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_export_leaves_what_stood_there(model: NVEmbedModel, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "out")
    before = (folder / "model.safetensors").read_bytes()
    spoil_a_weight_on_its_way(model)
    with pytest.raises(RuntimeError):
        model.save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_the_check_the_bad_folder_is_written(model: NVEmbedModel, tmp_path: Path) -> None:
    expected = model.encode(["who"])
    spoil_a_weight_on_its_way(model)
    folder = model.save_pretrained(tmp_path / "out", check=False)
    assert abs(NVEmbedModel.from_pretrained(folder).encode(["who"]) - expected).max() > 1e-2


def test_what_a_loader_cannot_read_is_refused(model: NVEmbedModel, tmp_path: Path) -> None:
    from dataclasses import replace

    model.spec = replace(model.spec, pooling="mean", latent=None)
    with pytest.raises(RuntimeError, match=r"NVEmbedModel cannot load it .*unknown to this configuration"):
        model.save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["a"].view(torch.int32).bitwise_xor_(1), "tensor a is not what was to be written"),
        (lambda state: state.update(a=state["a"].half()), "tensor a is not what was to be written"),
        (lambda state: state.update(a=state["a"][:2].clone()), "tensor a is not what was to be written"),
        (lambda state: state.pop("b"), "tensor b is not in the folder"),
        (lambda state: state.update(c=torch.zeros(1)), "tensor c is written twice, or is none of the model's"),
    ],
)
def test_tensors_on_disk_are_compared_bit_for_bit(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    state = {"a": torch.tensor([1.0, float("nan"), -0.0]), "b": torch.ones(2, 2)}
    written = {name: tensor.clone() for name, tensor in state.items()}
    save_file(written, tmp_path / "model.safetensors")
    check_tensors(state, tmp_path)
    change(written)
    save_file(written, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=message):
        check_tensors(state, tmp_path)


def test_a_model_too_short_for_an_instruction_is_exported_all_the_same(section: Section, tmp_path: Path) -> None:
    model = NVEmbedModel.from_section(section(max_length=16))
    assert model.save_pretrained(tmp_path / "out").is_dir()


def test_a_model_held_in_bf16_is_exported(model: NVEmbedModel, tmp_path: Path) -> None:
    differences = write_model(model.bfloat16(), tmp_path)
    assert 0 < differences["NVEmbedModel"] < 2e-2


def test_weights_are_stored_in_three_types_only(model: NVEmbedModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dtype 'float64': weights are stored as float32, bfloat16, float16"):
        model.save_pretrained(tmp_path / "out", dtype="float64")
    with pytest.raises(UserError, match="dtype 'int8'"):
        model.save_pretrained(tmp_path / "out", dtype=torch.int8)


def test_where_sentence_transformers_is_not_installed_the_other_loaders_check(tmp_path: Path) -> None:
    code = f"""
        import importlib.machinery, importlib.util, pathlib

        finder = importlib.machinery.PathFinder
        find = finder.find_spec

        @staticmethod
        def find_what_is_installed(name, path=None, target=None):
            return None if name.split(".")[0] == "sentence_transformers" else find(name, path, target)

        finder.find_spec = find_what_is_installed
        assert importlib.util.find_spec("sentence_transformers") is None
        from nvembed import NVEmbedModel
        from nvembed.modeling.checkpoint import write_model

        model = NVEmbedModel.from_pretrained({str(DATA / "nvembed-tiny")!r})
        out = pathlib.Path({str(tmp_path)!r})
        assert set(write_model(model, out)) == {{"NVEmbedModel", "AutoModel"}}
        model.backbone.config.rms_norm_eps = 10.0
        try:
            model.save_pretrained(out / "bad")
        except RuntimeError as error:
            assert "gives other vectors" in str(error)
        else:
            raise AssertionError("a bad export passed")
        assert not (out / "bad").exists()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
