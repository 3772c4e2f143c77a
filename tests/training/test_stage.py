"""`train_stage` from dataset to adapter folder, and what it refuses before it starts anything."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from training.support import make_dataset, make_examples, recipe

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.modeling import NVEmbedModel
from nvembed.training import train_stage


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a dataset of three task types, where state is kept too."""
    folder = tmp_path_factory.mktemp("stage")
    examples = make_examples(24)
    for task_type in ("classification", "clustering"):
        examples += make_examples(12, task_type=task_type, seed=1)
    make_dataset(folder / "dataset", examples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVEMBED_STATE", str(folder / "state"))
        yield folder


def train(place, name, out, *overrides, init=None, dataset="dataset", **options):
    made = recipe(*overrides)
    train_stage(name, getattr(made, name), made.model, made.resources, place / dataset, init, place / out, **options)
    return place / out


@pytest.fixture(scope="module")
def stage1(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVEMBED_METRICS", str(place / "told"))
        patch.setenv("NVEMBED_PROGRESS", str(place / "progress"))
        return train(place, "stage1", "stage1")


def metrics(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_adapter_folder_holds_weights_curves_report_and_manifest(place, stage1):
    manifest = read_manifest(stage1, kind="adapter", verify=True)
    made = recipe()
    assert manifest.section == made.stage1.model_dump(mode="json")
    assert manifest.extra["model"] == made.model.model_dump(mode="json")
    assert len(manifest.extra["backbone_digest"]) == 64
    assert manifest.inputs == {"dataset": read_manifest(place / "dataset").content}
    assert manifest.licenses == {"made up": "CC0-1.0"}
    records = metrics(stage1 / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert manifest.headline["stage1.final_loss"] == records[-1]["loss"]
    assert manifest.headline["stage1.steps"] == 4
    assert manifest.headline["stage1.examples_per_second"] * manifest.headline["stage1.seconds"] == pytest.approx(32)
    assert (stage1 / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert manifest.headline["stage1.epochs"] == 4 / 3
    assert manifest.extra["composition"] == [
        {
            "task": "words",
            "source": "made up",
            "task_type": "retrieval",
            "examples": 24,
            "per_epoch": 24,
            "share": 1.0,
            "passes": 4 / 3,
        }
    ]
    page = (stage1 / "report.html").read_text()
    assert "What an epoch holds" in page and "<td>24</td><td>24</td><td>100.00%</td><td>1.33</td>" in page
    assert "data:image/png;base64" in page and "http" not in page


def test_the_trained_tensors_load_into_a_model_and_differ_from_where_they_began(stage1):
    model = recipe().model
    trained = load_file(stage1 / "trainable.safetensors")
    fresh = dict(NVEmbedModel.from_section(model, trainable=True).named_parameters())
    loaded = dict(NVEmbedModel.from_section(model, stage1).named_parameters())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in trained.items())
    moved = {name for name, tensor in trained.items() if not torch.equal(fresh[name], tensor)}
    assert any(name.startswith("latent.") for name in moved) and any("lora_" in name for name in moved)


def test_progress_and_metrics_are_told_while_it_trains(place, stage1):
    told = metrics(place / "told")
    assert [line["step"] for line in told] == [1, 2, 3, 4]
    assert set(told[0]["metrics"]) == {
        "train/loss",
        "train/in_batch_accuracy",
        "train/learning_rate",
        "train/grad_norm",
        "train/positive_similarity",
        "train/negative_similarity",
        "train/examples_per_second",
        "train/tokens_per_second",
        "train/step_seconds",
        "train/data_wait_seconds",
        "train/memory_gigabytes",
        "train/peak_share",
    }
    progress = metrics(place / "progress")
    assert any("fewer than 2 negatives" in line.get("text", "") for line in progress)
    assert any(
        "an epoch: 24 examples in 3 steps, words (made up) 100.0%; 4 steps are 1.33 epochs" in line.get("text", "")
        for line in progress
    )
    last = [line for line in progress if line["event"] == "progress"][-1]
    assert (last["done"], last["total"]) == (4, 4)
    assert last["text"].startswith("loss ") and last["text"].endswith("left")


def test_a_complete_stage_is_not_trained_again_but_its_curve_is_told_again(place, stage1, monkeypatch):
    (state,) = (place / "state" / "training").iterdir()
    log = (state / "worker.log").read_bytes()
    monkeypatch.setenv("NVEMBED_METRICS", str(place / "told-again"))
    again = train(place, "stage1", "stage1-again")
    assert (state / "worker.log").read_bytes() == log, "ranks were started"
    assert [line["step"] for line in metrics(place / "told-again")] == [1, 2, 3, 4]
    assert read_manifest(again).content == read_manifest(stage1).content


def test_stage_2_starts_from_stage_1_blends_tasks_and_runs_on_two_ranks(place, stage1):
    out = train(place, "stage2", "stage2", "resources.processes=2", init=stage1)
    manifest = read_manifest(out, kind="adapter", verify=True)
    assert set(manifest.inputs) == {"dataset", "init"}
    assert manifest.extra["processes"] == 2
    before, after = load_file(stage1 / "trainable.safetensors"), load_file(out / "trainable.safetensors")
    assert before.keys() == after.keys()
    change = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < change < 3.5 * 5e-4, "three steps of Adam at this rate move no weight further"


def test_what_a_rank_finds_wrong_is_the_users_to_mend_and_leaves_nothing(place):
    with pytest.raises(UserError, match="leaves no room for text"):
        train(place, "stage1", "unmade", "stage1.query_max_length=5")
    assert not (place / "unmade").exists()


def test_a_stage_that_changes_its_loss_and_batches_trains_and_shows_its_keys_and_what_the_teacher_teaches(place):
    keys = {"distillation.weight": 1, "matryoshka.dims": [16, 8], "in_batch.off_for": ["words"], "hardness.strength": 5}
    keys |= {"batches.mode": "one-dataset", "batches.weights.words": 1.5}
    out = train(place, "stage1", "changed-loss", *(f"stage1.{key}={value}" for key, value in keys.items()))
    records = metrics(out / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert all(0 < record["distillation_loss"] < record["loss"] for record in records)
    page = (out / "report.html").read_text()
    assert all(f"<td>{key}</td><td>{value}" in page for key, value in keys.items() if "[" not in str(value))
    assert "<td>matryoshka.dims</td><td>[16, 8]</td>" in page
    assert "<td>24</td><td>32</td><td>100.00%</td>" in page, "an epoch of one and a half, in whole batches"


def test_distillation_without_a_teachers_scores_is_refused_and_leaves_nothing(place):
    make_dataset(place / "unscored", make_examples(24), kind="dataset")
    with pytest.raises(UserError, match="unscored: holds no scores of a teacher"):
        train(place, "stage1", "unmade", "stage1.distillation.weight=1", dataset="unscored")
    assert not (place / "unmade").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage1.batch_size=25"], "batch_size 25: only 24 training examples of retrieval"),
        (["stage1.task_types=[sts]"], "0 training examples of sts"),
        (["resources.processes=9"], "resources.processes is 9, above batch_size 8"),
        (["resources.nodes=2"], "resources.nodes is 2"),
        (["model.max_length=99999"], "max_length"),
        (["stage1.batches.weights.word=2"], r"dataset: batches\.weights: 'word' .* \(did you mean 'words'\?\)"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_at_once(place, overrides, message):
    with pytest.raises(UserError, match=message):
        train(place, "stage1", "unmade", *overrides)
    assert not (place / "unmade").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_recipe_is_refused_without_a_gpu(place):
    with pytest.raises(UserError, match="no usable GPU"):
        train(place, "stage1", "unmade", "resources.device=cuda")


def test_a_missing_or_changed_dataset_is_refused(place):
    with pytest.raises(UserError, match=r"no manifest\.json here"):
        train(place, "stage1", "unmade", dataset="nowhere")
    changed = place / "changed"
    shutil.copytree(place / "dataset", changed)
    with (changed / "train" / "part-00000.parquet").open("ab") as part:
        part.write(b"PAR1")
    with pytest.raises(UserError, match=r"changed.* (its files changed|cannot be read as Parquet)"):
        train(place, "stage1", "unmade", dataset="changed")


def test_a_dataset_with_a_missing_shard_is_refused_with_the_shards_name(place, monkeypatch):
    monkeypatch.setattr("nvembed.data.store.ROWS_A_PART", 10)
    for name, lost in (("middle", "part-00001.parquet"), ("last", "part-00002.parquet")):
        folder = make_dataset(place / f"lost-{name}", make_examples(24))
        (folder / "train" / lost).unlink()
        rows = "" if name == "middle" else "or a later one is missing: 20 of 24 examples are there"
        with pytest.raises(UserError, match=f"lost-{name}/train: {lost} {rows}"):
            train(place, "stage1", "unmade", dataset=f"lost-{name}")


def test_an_adapter_of_another_model_section_is_refused_with_what_differs(place, stage1):
    with pytest.raises(UserError, match=r"model\.pooling is mean, there latent"):
        train(place, "stage2", "unmade", "model.pooling=mean", init=stage1)
    with pytest.raises(UserError, match="holds a mined"):
        train(place, "stage2", "unmade", init=place / "dataset")


def test_a_damaged_adapter_is_refused(place, stage1):
    damaged = place / "damaged"
    shutil.copytree(stage1, damaged)
    with (damaged / "trainable.safetensors").open("r+b") as stream:
        stream.seek(-3, 2)
        stream.write(b"\x00\x01")
    with pytest.raises(UserError, match="damaged: its files changed"):
        train(place, "stage2", "unmade", init=damaged)
    assert not (place / "unmade").exists()
