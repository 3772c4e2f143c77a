"""One step on several ranks is the step of one process.

What is pinned: on 1, 2 and 4 ranks, in every ZeRO stage, with and without the gradient cache, loss and gradients equal
a plain computation on one process that shares nothing with the trainer but the model; so do they with packed texts,
with a batch that the ranks cannot share evenly, with examples that need no others taken group by group, and with
everything that a stage may change in its loss. Where both apply they are those of sentence-transformers, its model and
its losses. With dropout on, the gradient cache equals autograd through the same chunks; that is refused as proof if no
dropout was active.

The comparison's own power is shown: it refuses gradients that miss the factor of the world size, those of detached
documents, and those of a second pass with other dropout masks.
"""

import pytest
import torch
from safetensors.torch import load_file
from training.equality import (
    Setting,
    assert_same_gradients,
    case,
    distance,
    gradients,
    moved_adapter,
    one_thread,
    run_cases,
)
from training.plain_loss import plain_losses
from training.support import make_dataset, make_examples, recipe

from nvembed.data import BatchSampler, read_examples, read_teacher_scores
from nvembed.modeling import NVEmbedModel
from nvembed.recipe import InBatch, Stage

BATCH = 8
CACHED = {"budget": 200}
GROUPED = {"budget": 1000}  # holds an example, and not a rank's share of the batch
ALONE = {"in_batch": InBatch(enabled=False).model_dump()}
UNEVEN = {"batch_size": 7}
CHANGED = {
    "in_batch": {"enabled": True, "on_for": [], "off_for": [], "others_hard_negatives": False, "weight": 0.5},
    "hard_negatives_weight": 2.0,
    "false_negatives": {"same_class": False, "margin": 0.0},
    "hardness": {"strength": 5.0, "of": "all"},
    "matryoshka": {"dims": [16, 8], "weights": [0.5, 0.25]},
    "distillation": {"weight": 0.5, "teacher_temperature": 0.1},
    "temperature": 0.1,
}
ON_TWO_RANKS = {  # name -> options of the case; the stage's changed keys decide the truth it is held against
    "alone-cached": {**CACHED, "stage": ALONE},  # not even one example fits
    "alone-grouped": {**GROUPED, "stage": ALONE},
    "alone-grouped-uneven-zero3": {**GROUPED, "zero": 3, "stage": {**ALONE, **UNEVEN}},
    "alone-grouped-changed-zero2": {**GROUPED, "zero": 2, "packed": True, "stage": {**CHANGED, **ALONE}},
    "uneven": {"stage": UNEVEN},
    "uneven-cached-zero3": {**CACHED, "zero": 3, "stage": UNEVEN},
    "changed": {"stage": CHANGED},
    "changed-cached-zero2": {**CACHED, "zero": 2, "stage": CHANGED},
    "packed": {"packed": True},
    "packed-cached-zero3": {**CACHED, "packed": True, "zero": 3},
}
FAULTS = {"missing world size": {}, "detached documents": {}, "detached documents, cached": CACHED}
SHARED = {"shared": {}, "shared-cached": CACHED, "shared-cached-zero3": {**CACHED, "zero": 3}}
WORLDS = [1, 2, pytest.param(4, marks=pytest.mark.slow)]
DROPOUTS = {"lora": {"lora_dropout": 0.3}, "backbone": {"stage": {"backbone_dropout": 0.3}}}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    made = recipe("stage1.max_grad_norm=1000000", f"stage1.batch_size={BATCH}", "stage1.warmup_steps=0")
    dataset = make_dataset(folder / "dataset", make_examples(3 * BATCH))
    make_dataset(folder / "shared", alike_examples())
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVEMBED_STATE", str(folder / "state"))
        yield Setting(made, dataset, folder, moved_adapter(made, folder / "init"))


@pytest.fixture(scope="module")
def steps(setting):
    """First steps of all cases of a number of ranks, run once."""
    known = {}

    def of(world):
        if world not in known:
            known[world] = run_cases(setting, world, cases_of(setting, world))
        return known[world]

    return of


def alike_examples():
    """A batch that both libraries take alike: the same number of negatives everywhere, no document in two examples."""
    made = enumerate(make_examples(2 * BATCH, seed=7))
    return [example for index, example in made if index % 4 and index % 5 != 3][:BATCH]


def cases_of(setting, world):
    cases = [
        case(setting, f"zero{zero}{name}", zero=zero, **options)
        for zero in (0, 1, 2, 3)
        for name, options in (("", {}), ("-cached", CACHED))
    ]
    if world > 1:
        cases += [case(setting, name, fault=name.split(",")[0], **options) for name, options in FAULTS.items()]
    if world == 2:
        cases += [case(setting, name, **options) for name, options in ON_TWO_RANKS.items()]
        shared = {"dataset": str(setting.folder / "shared")}
        cases += [case(setting, name, **shared, **options) for name, options in SHARED.items()]
        for name, dropout in DROPOUTS.items():
            cases.append(case(setting, f"{name}-at-once", at_once=True, **CACHED, **dropout))
            cases.append(case(setting, f"{name}-cached", **CACHED, **dropout))
            cases.append(case(setting, f"{name}-other-masks", fault="dropout not replayed", **CACHED, **dropout))
    return cases


def plain_truth(setting, **keys):
    """Loss and gradients of the first batch by plain PyTorch: one process, and loops in place of the mask."""
    stage = Stage.model_validate(setting.recipe.stage1.model_dump() | keys)
    model = NVEmbedModel.from_section(setting.recipe.model, setting.init, trainable=True)
    model.latent.folded = False
    examples = read_examples(setting.dataset)
    batch = BatchSampler(examples, stage.batch_size, stage.seed, stage.task_types).batch(0)

    def encode(texts, instruction, length):
        return model(*model.collate(model.tokenize(texts, instruction, length)))

    asked = encode([e.query for e in batch], batch[0].query_instruction, stage.query_max_length)
    queries = dict(zip([e.id for e in batch], asked, strict=True))
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
        scores=read_teacher_scores(setting.dataset),
    ).mean()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def truth(setting):
    return plain_truth(setting)


@pytest.mark.parametrize("world", WORLDS)
def test_loss_and_gradients_are_those_of_a_plain_process_on_any_ranks_in_any_zero_stage_cached_or_not(
    steps, truth, world
):
    names = [f"zero{zero}{kind}" for zero in (0, 1, 2, 3) for kind in ("", "-cached")]
    for name in names:
        state, told = steps(world)[name]
        (cut,) = told["cut"]
        assert cut["fits"] == ("cached" not in name) and (cut["chunks"] >= 3 or cut["fits"])
        assert cut["folded"], "the truth is computed with the block in its plain form"
        assert told["records"][0]["loss"] == pytest.approx(truth[0], rel=1e-5), name
        assert_same_gradients(gradients(state), truth[1])


@pytest.mark.parametrize("name", ON_TWO_RANKS)
def test_so_are_they_in_other_forms_of_batch_and_loss(setting, steps, truth, name):
    options = ON_TWO_RANKS[name]
    loss, expected = plain_truth(setting, **options["stage"]) if "stage" in options else truth
    state, told = steps(2)[name]
    assert told["cut"][0]["fits"] == ("cached" not in name and "grouped" not in name)
    assert (told["cut"][0].get("groups", 0) > 1) == ("grouped" in name)
    assert set(told["cut"][0]["packed"]) == {"packed" in options}
    assert told["records"][0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(gradients(state), expected)


@pytest.fixture(scope="module")
def of_sentence_transformers(setting):
    """Its model with LoRA by peft and our weights; loss and gradients, by our names, by either of its losses."""
    from peft import LoraConfig, inject_adapter_in_model
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    section, stage = setting.recipe.model, setting.recipe.stage1
    bare = section.model_copy(update={"lora": section.lora.model_copy(update={"enabled": False})})
    theirs = SentenceTransformer(str(NVEmbedModel.from_section(bare).save_pretrained(setting.folder / "exported")))
    theirs.max_seq_length = stage.document_max_length
    lora = LoraConfig(r=section.lora.rank, lora_alpha=section.lora.alpha, target_modules="all-linear")
    inject_adapter_in_model(lora, theirs[0].model.embedding_model)
    names = {"backbone.": "0.model.embedding_model.", "latent.": "0.model.latent_attention_model."}
    trained = load_file(setting.init / "trainable.safetensors")
    parameters = dict(theirs.named_parameters())
    found = {
        name: parameters[theirs_name + name.removeprefix(ours)]
        for name in trained
        for ours, theirs_name in names.items()
        if name.startswith(ours)
    }
    with torch.no_grad():
        for name, parameter in found.items():
            parameter.copy_(trained[name])
    examples = alike_examples()
    prompt = section.query_template.format(task=examples[0].query_instruction, text="")
    losses = {
        "plain": MultipleNegativesRankingLoss(theirs, scale=1 / stage.temperature),
        "cached": CachedMultipleNegativesRankingLoss(theirs, scale=1 / stage.temperature, mini_batch_size=3),
    }

    def of(kind):
        theirs.train().zero_grad()
        columns = [[e.query for e in examples], [e.positive for e in examples]]
        columns += [[e.negatives[place] for e in examples] for place in range(2)]
        features = [theirs.preprocess(texts, prompt=None if turn else prompt) for turn, texts in enumerate(columns)]
        loss = losses[kind](features, None)
        loss.backward()
        return loss.item(), {name: parameter.grad.clone() for name, parameter in found.items()}

    return of


@pytest.mark.parametrize("theirs", ["plain", "cached"])
@pytest.mark.parametrize("ours", SHARED)
def test_where_both_apply_they_are_those_of_sentence_transformers(of_sentence_transformers, steps, ours, theirs):
    loss, expected = of_sentence_transformers(theirs)
    state, told = steps(2)[ours]
    assert told["records"][0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(gradients(state), expected)


@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_classic_faults_would_be_found(steps, truth, world, fault):
    state, told = steps(world)[fault]
    assert told["records"][0]["loss"] == pytest.approx(truth[0], rel=1e-5), "neither shows in the loss"
    found = gradients(state)
    with pytest.raises(AssertionError):
        assert_same_gradients(found, truth[1])
    off = distance(found, truth[1])
    if fault == "missing world size":
        assert off == pytest.approx(1 - 1 / world, abs=1e-4)
    else:
        assert off > 0.05
    assert distance(gradients(steps(world)["zero0-cached"][0]), truth[1]) < off / 1000


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_with_dropout_the_gradient_cache_is_autograd_through_the_same_chunks(steps, truth, dropout):
    at_once, told = steps(2)[f"{dropout}-at-once"]
    cached, told_cached = steps(2)[f"{dropout}-cached"]
    assert told["cut"][0]["chunks"] == told_cached["cut"][0]["chunks"] > 3
    assert told["cut"][0]["fits"] and not told_cached["cut"][0]["fits"]
    assert_dropout_was_active(gradients(at_once), truth[1])
    assert_same_gradients(gradients(cached), gradients(at_once))


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_a_second_pass_with_other_masks_would_be_found(steps, dropout):
    found, expected = (gradients(steps(2)[f"{dropout}-{kind}"][0]) for kind in ("other-masks", "at-once"))
    with pytest.raises(AssertionError):
        assert_same_gradients(found, expected)
    assert distance(found, expected) > 0.05


def test_a_model_without_active_dropout_proves_nothing(steps, truth):
    with pytest.raises(AssertionError, match="no dropout was active"):
        assert_dropout_was_active(gradients(steps(2)["zero0-cached"][0]), truth[1])


def assert_dropout_was_active(found, without):
    assert distance(found, without) > 0.05, "no dropout was active"


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_zero_stage_and_number_of_ranks_takes_the_same_steps(setting, world):
    cases = [
        case(setting, f"three-zero{zero}-{budget}", zero=zero, budget=budget, steps=3)
        for zero in (0, 1, 2, 3)
        for budget in (100_000, 200)
    ]
    results = run_cases(setting, world, cases)
    reference, _ = results["three-zero0-100000"]
    for name, (state, _) in results.items():
        for key, value in reference.items():
            scale = float(value.abs().max())
            torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-4 * scale + 1e-8, msg=f"{name}: {key}")
