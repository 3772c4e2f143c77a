"""What a stage needs, said beforehand: parameters, memory, the settings it leads to, and `auto` in a recipe."""

import json

import pytest
import torch
from safetensors.torch import load_file
from training.support import make_dataset, make_examples, recipe

from nvembed.cli import main
from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.modeling import source
from nvembed.modeling.random_backbone import SHAPES
from nvembed.modeling.sizes import read_sizes
from nvembed.recipe import load_recipe
from nvembed.training import train_stage
from nvembed.training.build import build_encoder
from nvembed.training.chunks import Chunk
from nvembed.training.footprint import Counts, measure
from nvembed.training.job import Job
from nvembed.training.machine import CHIPS, EFFICIENCY, Machine, described_machine, read_bytes
from nvembed.training.plan import GPU_OVERHEAD, MARGIN, make_plan

AUTO = [f"stage1.{key}=auto" for key in ("micro_batch_tokens", "zero_stage", "gradient_checkpointing")]
PUBLISHED = [
    "model.backbone=nvidia/NV-Embed-v2",
    "model.lora.rank=16",
    "model.precision=auto",
    "stage1.batch_size=128",
    "stage1.negatives=7",
    "stage1.query_max_length=256",
    "stage1.document_max_length=256",
]


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(source, "hub_answers", lambda: False)


def machine(memory, ranks=1):
    return Machine("cuda", ranks, ranks, memory, None, False, 1e12, "made up")


def encoder_of(made):
    sections = {"stage": made.stage1.model_dump(mode="json"), "model": made.model.model_dump(mode="json")}
    told = {"dataset": "", "init": None, "state": "", "resume": None, "made_by": {}, "device": "cpu", "threads": 1}
    return build_encoder(Job("stage1", **sections, **told), torch.device("cpu"))


def chunk(rows, length):
    ids = torch.arange(rows * length).view(rows, length) % 200 + 5
    return Chunk(torch.arange(rows), ids, torch.ones_like(ids), torch.ones_like(ids, dtype=torch.bool), seed=1)


def test_the_published_model_has_the_published_number_of_parameters_without_being_there(no_hub):
    sizes = read_sizes(load_recipe("tiny", PUBLISHED).model)
    lora = 41_943_040
    assert sizes.total == 7_851_016_192 + lora
    assert sizes.trained == 740_356_096 + lora
    assert sizes.assumed == "nvidia/NV-Embed-v2" and sizes.layers == 32
    four = read_sizes(load_recipe("tiny", [*PUBLISHED, "model.quantization=nf4"]).model)
    assert four.quantised == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    saved = sizes.weight_bytes(low=True) - four.weight_bytes(low=True)
    assert saved == pytest.approx(four.quantised * (2 - 0.516), rel=1e-3)


def test_the_single_gpus_backbone_has_its_published_number_of_parameters(no_hub):
    shape = ["model.backbone=Qwen/Qwen3-0.6B", "model.pooling=mean", "model.lora.enabled=false"]
    sizes = read_sizes(load_recipe("tiny", shape).model)
    assert (sizes.total, sizes.layers, sizes.assumed) == (596_049_920, 28, "Qwen/Qwen3-0.6B")


def test_of_a_hub_id_that_nobody_knows_the_plan_says_which_it_does(no_hub):
    with pytest.raises(UserError, match=r"cannot be had from the hub.*shapes known without it: mistralai"):
        read_sizes(load_recipe("tiny", ["model.backbone=nobody/nothing-at-all"]).model)


@pytest.mark.parametrize(
    ("precision", "checkpointing", "block"),
    [("float32", False, "full"), ("float32", True, "lora"), ("bfloat16", False, "lora"), ("bfloat16", True, "full")],
)
def test_the_footprint_is_what_the_encoder_allocates(monkeypatch, precision, checkpointing, block):
    """Four layers from measurements of one and two, tokens that were not measured; PyTorch's tensors are counted."""
    monkeypatch.setitem(SHAPES["mistral-tiny"], "num_hidden_layers", 4)
    keys = [f"model.precision={precision}", f"stage1.gradient_checkpointing={str(checkpointing).lower()}"]
    made = recipe(*keys, f"model.latent.train={block}")
    encoder, rows, length = encoder_of(made), 45, 64
    encoder([chunk(1, length)]).sum().backward()
    encoder.zero_grad()
    real = Counts([*encoder.model.parameters(), *encoder.model.buffers()])
    with real:
        real.backward(encoder([chunk(rows, length)]).sum())
    how = {"low": False, "plain_attention": not checkpointing, "checkpointing": checkpointing}
    footprint = measure(made.model, 4, length=length, precision=precision, **how)
    assert footprint.chunk_bytes(rows * length) == pytest.approx(real.peak, rel=0.08)


def test_recomputing_costs_one_more_forward_pass_and_adapters_need_no_gradients_of_weights(no_hub):
    """7.1 billion parameters: 2N forward, 4N with LoRA, 6N recomputed; the block is trained in full (Kaplan's rule)."""
    made = load_recipe("tiny", PUBLISHED)
    how = {"length": 128, "precision": "bfloat16", "low": True, "plain_attention": False}
    kept, again = (measure(made.model, 32, checkpointing=on, **how) for on in (False, True))
    backbone = 2 * 6_979_000_000  # multiplications and additions in its linear layers
    assert kept.forward_flops == pytest.approx(backbone, rel=0.06)
    assert kept.step_flops == pytest.approx(2 * kept.forward_flops, rel=0.06)
    assert again.step_flops - kept.step_flops == pytest.approx(backbone, rel=0.06)
    assert again.token_bytes < kept.token_bytes / 10


def test_less_memory_leads_to_the_gradient_cache_then_to_checkpointing_with_it_then_to_a_refusal():
    made, ways = recipe(*AUTO), []
    sizes = read_sizes(made.model)
    for extra in (100e6, 20e6, 5e6, 2e6, 1e6):
        plan = make_plan("stage1", made.stage1, made.model, machine(int((GPU_OVERHEAD + extra) / MARGIN)), sizes=sizes)
        ways.append((plan.fits, plan.gradient_cache, plan.gradient_checkpointing))
        assert not plan.fits or plan.memory_needed <= plan.memory_available
        assert plan.fits or "what may help: more memory" in plan.why or "model.latent.train=lora" in plan.why
    both = (True, True, True)
    assert ways == [(True, False, False), (True, True, False), both, both, (False, True, True)]


def test_ranks_share_out_only_what_they_must(no_hub):
    made = load_recipe("tiny", [*PUBLISHED, "resources.processes=8", "model.latent.train=lora", *AUTO])
    roomy, tight = (
        make_plan("stage1", made.stage1, made.model, described_machine(8, memory, "H100"))
        for memory in ("80GB", "17GB")
    )
    assert (roomy.fits, roomy.zero_stage) == (True, 0)
    assert (tight.fits, tight.zero_stage) == (True, 3)
    assert tight.memory["frozen weights"] < roomy.memory["frozen weights"] / 3
    assert roomy.seconds_per_step == pytest.approx(roomy.flops_per_step / (CHIPS["H100"] * 1e12 * EFFICIENCY))


def test_a_published_7b_model_fits_one_gpu_of_24_gb_in_4_bits_with_adapters_on_its_block_alone(no_hub):
    keys = [*PUBLISHED, *AUTO, "stage1.batch_size=16"]
    card = described_machine(1, "24GB", "RTX 4090")
    plans = {
        kind: make_plan("stage1", made.stage1, made.model, card)
        for kind in ("none", "nf4")
        if (made := load_recipe("tiny", [*keys, f"model.quantization={kind}", "model.latent.train=lora"]))
    }
    assert plans["nf4"].fits
    assert plans["nf4"].memory["frozen weights"] < plans["none"].memory["frozen weights"] / 2.5


@pytest.mark.parametrize(
    ("text", "found"), [("80GB", 80e9), ("24Gi", 24 * 2**30), ("500 MB", 5e8), ("1.5TB", 1.5e12), ("80", 80e9)]
)
def test_sizes_are_read_as_people_write_them(text, found):
    assert read_bytes(text, "--gpu-memory") == found


def test_checkpointing_leaves_the_gradients_of_short_texts_as_they_are():
    """Their attention is chosen around the forward pass, and the second pass comes after it."""
    found = {}
    for on in ("false", "true"):
        encoder = encoder_of(recipe(f"stage1.gradient_checkpointing={on}"))
        encoder([chunk(4, 32)])[:, 0].sum().backward()
        found[on] = {name: p.grad for name, p in encoder.named_parameters() if p.requires_grad}
    for name, gradient in found["false"].items():
        torch.testing.assert_close(found["true"][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_recipe_that_says_auto_trains_alike_and_its_values_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("NVEMBED_PROGRESS", str(tmp_path / "progress"))
    make_dataset(tmp_path / "dataset", make_examples(24))
    out = {}
    for name, keys in (("auto", AUTO), ("plain", ["stage1.micro_batch_tokens=100000"])):
        made = recipe("stage1.steps=2", *keys)
        out[name] = tmp_path / name
        train_stage("stage1", made.stage1, made.model, made.resources, tmp_path / "dataset", None, out[name])
    manifest = read_manifest(out["auto"], kind="adapter")
    assert manifest.section["micro_batch_tokens"] == "auto"
    settings = manifest.extra["settings"]
    assert settings["zero_stage"] == 0 and settings["gradient_checkpointing"] is False
    assert 192 <= settings["micro_batch_tokens"] <= 8 * 4 * 192
    one, other = (load_file(out[name] / "trainable.safetensors") for name in ("auto", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "on this machine: micro_batch_tokens" in (tmp_path / "progress").read_text()
    (made_by,) = [
        json.loads(file.read_text())["made_by"]
        for file in (tmp_path / "state").glob("training/*/job.json")
        if json.loads(file.read_text())["made_by"]["stage"]["zero_stage"] == "auto"
    ]
    assert made_by["stage"]["micro_batch_tokens"] == "auto"


def test_the_command_says_what_fits_as_a_table_and_as_json(capsys, no_hub):
    card = ["--gpus", "1", "--gpu-memory", "16GB", "--chip", "RTX 4090"]
    assert main(["train", "--recipe", "tiny", "--plan", *card]) == 0
    table = capsys.readouterr().out
    assert "does it fit" in table and "gradient cache" in table and "45% of its data sheet assumed" in table
    assert main(["run", "--recipe", "tiny", "--plan", "--json", *card]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert [plan["stage"] for plan in plans] == ["stage1", "stage2"]
    assert plans[0]["memory_needed"] == sum(plans[0]["memory"].values())


def test_the_command_refuses_what_does_not_fit_in_a_line_that_names_keys(capsys, no_hub):
    assert main(["train", "--recipe", "tiny", "--plan", "--gpus", "1", "--gpu-memory", "1500MB"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "stage1 does not fit: a rank needs" in error and "model.quantization=nf4" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus", "2"], "give --gpu-memory too"),
        (["--gpus", "2", "--gpu-memory", "much"], "write a size as 80GB"),
        (["--gpus", "2", "--gpu-memory", "80GB", "--chip", "abacus"], "'abacus' is unknown; known: A10, A100"),
        (["--chip", "H100"], "describes another machine"),
    ],
)
def test_a_machine_that_is_described_badly_is_refused(capsys, options, message):
    assert main(["train", "--plan", *options]) == 2
    assert message in capsys.readouterr().err
