"""One step on several ranks is the step of one process.

What is pinned: loss and gradients on 2 ranks, with and without the gradient cache, equal a plain computation on one
process that shares nothing with the trainer but the model; so do they with everything that a stage may change in its
loss. This fails if a gradient misses the factor of the world
size and if the other ranks' documents are detached. With dropout on, the gradient cache equals autograd through the
same chunks; the test refuses to prove that of a model without active dropout.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from training.plain_loss import plain_losses
from training.support import HERE, make_dataset, make_examples, recipe, torchrun

from nvembed.data import BatchSampler, read_examples, read_teacher_scores
from nvembed.modeling import NVEmbedModel
from nvembed.recipe import InBatch, Stage

ALONE = {"in_batch": InBatch(enabled=False).model_dump()}
CHANGED = {
    "in_batch": {"enabled": True, "on_for": [], "off_for": [], "others_hard_negatives": False, "weight": 0.5},
    "hard_negatives_weight": 2.0,
    "false_negatives": {"same_class": False, "margin": 0.0},
    "hardness": {"strength": 5.0, "of": "all"},
    "matryoshka": {"dims": [16, 8], "weights": [0.5, 0.25]},
    "distillation": {"weight": 0.5, "teacher_temperature": 0.1},
    "temperature": 0.1,
}
NO_CLIPPING = "stage1.max_grad_norm=1000000"
BATCH = 8


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Sections, dataset folder and a folder for results."""
    folder = tmp_path_factory.mktemp("ranks")
    make_dataset(folder / "dataset", make_examples(3 * BATCH))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVEMBED_STATE", str(folder / "state"))
        yield recipe(NO_CLIPPING, f"stage1.batch_size={BATCH}", "stage1.warmup_steps=0"), folder


def case(setting, name, **options):
    """A case for the rank program."""
    made, folder = setting
    model = made.model.model_dump(mode="json")
    model["lora"]["dropout"] = options.pop("dropout", 0.0)
    stage = made.stage1.model_dump(mode="json") | options.pop("stage", {})
    fixed = {"name": name, "model": model, "stage": stage, "dataset": str(folder / "dataset"), "steps": 1}
    return {**fixed, "zero": 0, "budget": 100_000, **options}


def run_cases(setting, world, cases):
    """Each case's exported state and what its steps told."""
    _, folder = setting
    out = folder / f"world-{world}-{cases[0]['name']}"
    out.mkdir()
    (out / "cases.json").write_text(json.dumps(cases))
    torchrun(world, str(HERE / "rank_program.py"), str(out / "cases.json"), str(out))
    return {
        one["name"]: (
            load_file(out / f"{one['name']}.safetensors"),
            json.loads((out / f"{one['name']}.json").read_text()),
        )
        for one in cases
    }


def gradients(state):
    """Gradients of a first step: Adam's first moment is (1 − 0.9) times the gradient then."""
    return {name.removeprefix("exp_avg/"): value / 0.1 for name, value in state.items() if name.startswith("exp_avg/")}


def plain_truth(setting, **keys):
    """Loss and gradients of the first batch by plain PyTorch: one process, and loops in place of the mask."""
    made, folder = setting
    stage = Stage.model_validate(made.stage1.model_dump() | keys)
    model = NVEmbedModel.from_section(made.model, trainable=True)
    model.latent.folded = False
    batch = BatchSampler(read_examples(folder / "dataset"), BATCH, stage.seed, stage.task_types).batch(0)

    def encode(texts, instruction, length):
        return model(*model.collate(model.tokenize(texts, instruction, length)))

    queries = dict(
        zip(
            [e.id for e in batch],
            encode([e.query for e in batch], batch[0].query_instruction, stage.query_max_length),
            strict=True,
        )
    )
    texts = [[e.positive, *e.negatives[: stage.negatives]] for e in batch]
    documents = {
        e.id: dict(zip(some, encode(some, "", stage.document_max_length), strict=True))
        for e, some in zip(batch, texts, strict=True)
    }
    loss = plain_losses(
        batch,
        stage,
        lambda one: queries[one.id],
        lambda one, text: documents[one.id][text],
        scores=read_teacher_scores(folder / "dataset"),
    ).mean()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def assert_same_gradients(found, expected):
    """Equal up to rounding of float32, measured against each tensor's greatest entry."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=2e-5 * float(gradient.abs().max()) + 1e-9)


def test_loss_and_gradients_on_two_ranks_are_those_of_a_plain_process(setting):
    results = run_cases(
        setting,
        2,
        [
            case(setting, "direct"),
            case(setting, "cached", budget=200),
            case(setting, "alone", budget=200, stage=ALONE),
            case(setting, "changed", stage=CHANGED),
            case(setting, "changed-cached-zero2", zero=2, budget=200, stage=CHANGED),
            case(setting, "whole-zero3", zero=3),
            case(setting, "cached-zero2", zero=2, budget=200),
            case(setting, "cached-zero3", zero=3, budget=200),
            case(setting, "packed", packed=True),
            case(setting, "packed-cached-zero3", packed=True, zero=3, budget=200),
            case(setting, "replayed", budget=200, dropout=0.3, at_once=True),
            case(setting, "replayed-cached", budget=200, dropout=0.3),
        ],
    )
    in_batch, own, changed = plain_truth(setting), plain_truth(setting, **ALONE), plain_truth(setting, **CHANGED)
    for name, (state, told) in results.items():
        if "replayed" in name:
            continue
        loss, truth = own if name == "alone" else changed if name.startswith("changed") else in_batch
        assert told["cut"][0]["fits"] == ("cached" not in name and name != "alone")
        assert set(told["cut"][0]["packed"]) == {name.startswith("packed")}
        assert told["cut"][0]["folded"], "the truth is computed with the block in its plain form"
        assert told["records"][0]["loss"] == pytest.approx(loss, rel=1e-5)
        assert_same_gradients(gradients(state), truth)
    assert results["cached"][1]["cut"][0]["chunks"] > 3
    assert results["packed-cached-zero3"][1]["cut"][0]["chunks"] > 3

    at_once, cached = gradients(results["replayed"][0]), gradients(results["replayed-cached"][0])
    assert results["replayed"][1]["cut"][0]["chunks"] == results["replayed-cached"][1]["cut"][0]["chunks"] > 3
    assert any(not torch.allclose(at_once[n], in_batch[1][n], rtol=0.05) for n in at_once), "no dropout was active"
    assert_same_gradients(cached, at_once)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_zero_stage_and_number_of_ranks_takes_the_same_steps(setting, world):
    cases = [
        case(setting, f"zero{zero}-{budget}", zero=zero, budget=budget, steps=3)
        for zero in (0, 1, 2, 3)
        for budget in (100_000, 200)
    ]
    results = run_cases(setting, world, cases)
    truth = plain_truth(setting)
    reference, _ = results["zero0-100000"]
    for name, (state, told) in results.items():
        assert told["records"][0]["loss"] == pytest.approx(truth[0], rel=1e-5), name
        for key, value in reference.items():
            scale = float(value.abs().max())
            torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-4 * scale + 1e-8, msg=f"{name}: {key}")
