"""Stages that train adapters on the block, leave the block alone, or hold the backbone in 4 bits."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training.support import HERE, make_dataset, make_examples, recipe, torchrun

from nvembed.core.errors import UserError
from nvembed.modeling import NVEmbedModel
from nvembed.training import train_stage
from nvembed.training.schedule import parameter_groups

SAVED = str(Path(__file__).parents[1] / "data" / "nvembed-tiny")
LORA_BLOCK = "model.latent.train=lora"
quantised = pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="the extra `quant` is missing")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    make_dataset(folder / "dataset", make_examples(24))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVEMBED_STATE", str(folder / "state"))
        yield folder


def train(place, out, *overrides, init=None):
    made = recipe("stage1.steps=2", *overrides)
    train_stage("stage1", made.stage1, made.model, made.resources, place / "dataset", init, place / out)
    return place / out


def test_adapters_on_the_block_take_the_same_steps_under_zero_3_with_the_gradient_cache(place, tmp_path):
    made = recipe(LORA_BLOCK, "stage1.max_grad_norm=1000000")
    fixed = {"model": made.model.model_dump(mode="json"), "stage": made.stage1.model_dump(mode="json")}
    fixed |= {"dataset": str(place / "dataset"), "steps": 2}
    cases = [{"name": "plain", "zero": 0, "budget": 100_000}, {"name": "cached", "zero": 3, "budget": 200}]
    (tmp_path / "cases.json").write_text(json.dumps([{**fixed, **case} for case in cases]))
    torchrun(2, str(HERE / "rank_program.py"), str(tmp_path / "cases.json"), str(tmp_path))
    plain, cached = (load_file(tmp_path / f"{name}.safetensors") for name in ("plain", "cached"))
    told = json.loads((tmp_path / "cached.json").read_text())["cut"][0]
    assert told["chunks"] > 3 and not told["fits"] and told["folded"]
    of_block = [name for name in plain if name.startswith("exp_avg/latent.")]
    assert len(of_block) == 10 and all("lora_" in name for name in of_block)
    assert all(plain[name].abs().max() > 0 for name in of_block)
    for name, value in plain.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(cached[name], value, rtol=1e-3, atol=1e-4 * scale + 1e-8, msg=name)


def test_adapters_on_the_block_have_the_blocks_learning_rate():
    made = recipe(LORA_BLOCK, "stage1.latent_learning_rate=0.125")
    named = dict(NVEmbedModel.from_section(made.model, trainable=True).named_parameters())
    named = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    groups = parameter_groups(named, made.stage1, is_latent=lambda name: name.startswith("latent."))
    assert sorted((group["peak"], len(group["params"])) for group in groups) == [(0.001, 28), (0.125, 10)]


def test_a_stage_with_adapters_on_the_block_goes_on_into_the_next(place):
    first = train(place, "first", LORA_BLOCK)
    second = train(place, "second", LORA_BLOCK, "stage1.seed=4", init=first)
    one, two = load_file(first / "trainable.safetensors"), load_file(second / "trainable.safetensors")
    assert one.keys() == two.keys() and len([name for name in one if name.startswith("latent.")]) == 10
    change = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert 0 < change < 2.5 * 1e-3, "two steps of Adam at this rate move no weight further"


def test_a_frozen_block_is_no_part_of_what_a_stage_writes(place):
    out = train(place, "frozen", f"model.backbone={SAVED}", "model.latent.train=frozen")
    names = load_file(out / "trainable.safetensors").keys()
    assert names and all(name.startswith("backbone.") for name in names)


@quantised
def test_a_stage_trains_on_a_backbone_of_4_bits_and_leaves_adapters_for_the_original(place):
    keys = ["model.quantization=nf4", "resources.processes=2", "stage1.zero_stage=2"]
    out = train(place, "four-bits", *keys)
    trained = load_file(out / "trainable.safetensors")
    model = NVEmbedModel.from_section(recipe(*keys).model, out)
    assert trained.keys() == model.trained_names
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_4_bits_are_refused_with_zero_3(place):
    with pytest.raises(UserError, match=r"quantization is nf4.*zero_stage is 3"):
        train(place, "unmade", "model.quantization=nf4", "resources.processes=2", "stage1.zero_stage=3")
    assert not (place / "unmade").exists()
