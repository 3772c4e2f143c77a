"""Each stage by itself, with folders of one's own, one handing over to the next."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch

from nvembed.cli import main
from nvembed.core.artifacts import read_manifest
from nvembed.core.digests import code_digest
from nvembed.modeling import backbone_digest
from nvembed.recipe import load_recipe
from nvembed.training.checkpoints import TENSORS, save_checkpoint

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "ru", "te", "so", "ny", "pa") for b in ("ba", "den", "fi", "gor", "hul")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What `nvembed prepare` makes of a small file of pairs."""
    folder = tmp_path_factory.mktemp("stages")
    draw = random.Random(3)
    pairs = [
        {"query": " ".join(draw.sample(WORDS, 5)), "positive": " ".join(draw.sample(WORDS, 15))} for _ in range(300)
    ]
    (folder / "my.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    arguments = ["--recipe", "tiny", "--set", f"data.path={folder / 'my.jsonl'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVEMBED_PARENT", "")
        patch.setenv("NVEMBED_TASK", "")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        out = ["--out", str(folder / "data"), "--eval-out", str(folder / "eval")]
        assert main(["prepare", *arguments, *out]) == 0
    return folder


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("NVEMBED_PARENT", "")  # what the command sets is undone after the test
    monkeypatch.setenv("NVEMBED_TASK", "")


def test_prepare_writes_training_examples_and_held_out_sets(prepared):
    assert read_manifest(prepared / "data", kind="dataset").counts
    assert read_manifest(prepared / "eval", kind="eval").counts


def test_mine_goes_on_from_what_prepare_wrote(prepared, tmp_path):
    out = tmp_path / "mined"
    assert main(["mine", "--recipe", "tiny", "--dataset", str(prepared / "data"), "--out", str(out)]) == 0
    assert read_manifest(out, kind="mined").inputs


def test_evaluate_measures_bm25_on_the_held_out_sets(prepared, tmp_path):
    out = tmp_path / "bm25"
    arguments = ["--recipe", "tiny", "--candidate", "bm25", "--eval-sets", str(prepared / "eval"), "--out", str(out)]
    assert main(["evaluate", *arguments]) == 0
    assert read_manifest(out, kind="evaluation").headline


def train(prepared, tmp_path, *arguments) -> int:
    options = ["--recipe", "tiny", "--dataset", str(prepared / "data"), "--out", str(tmp_path / "adapter")]
    return main(["train", *options, *arguments])


def checkpoint(prepared, folder, **changed):
    """A checkpoint of stage 1 of `tiny` on the prepared data, and of whatever is changed."""
    recipe = load_recipe("tiny")
    made_by = {
        "stage": recipe.stage1.model_dump(mode="json"),
        "model": recipe.model.model_dump(mode="json"),
        "dataset": read_manifest(prepared / "data").content,
        "init": None,
        "backbone": backbone_digest(recipe.model),
        "code": code_digest(),
    }
    return save_checkpoint(folder, {"weight/x": torch.zeros(1)}, step=2, seconds=1.0, made_by=made_by | changed, keep=1)


def test_train_refuses_to_go_on_from_a_checkpoint_of_another_recipe_or_from_none(prepared, tmp_path, capsys):
    there = checkpoint(prepared, tmp_path)
    assert train(prepared, tmp_path, "--set", "stage1.steps=5", "--resume", str(there)) == 2
    assert one_line(capsys).endswith("made by something else: stage.steps is 5, there 4; resume with what made it")
    assert train(prepared, tmp_path, "--resume", str(tmp_path / "nothing")) == 2
    assert "no checkpoint here" in one_line(capsys)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("what", ["code", "dataset", "backbone"])
def test_train_refuses_to_go_on_from_a_checkpoint_of_another_version_of_its_inputs(prepared, tmp_path, capsys, what):
    there = checkpoint(prepared, tmp_path, **{what: "0" * 64})
    assert train(prepared, tmp_path, "--resume", str(there)) == 2
    line = one_line(capsys)
    assert f"made by something else: {what} is " in line
    assert 'there "000000000000000…; resume with what made it' in line
    assert not (tmp_path / "adapter").exists()


def test_train_refuses_to_go_on_from_a_damaged_checkpoint(prepared, tmp_path, capsys):
    there = checkpoint(prepared, tmp_path)
    with (there / TENSORS).open("ab") as stream:
        stream.write(b"more")
    assert train(prepared, tmp_path, "--resume", str(there)) == 2
    assert "the checkpoint is damaged" in one_line(capsys)
    assert not (tmp_path / "adapter").exists()


def test_train_refuses_a_dataset_with_a_missing_shard(prepared, tmp_path, capsys):
    shutil.copytree(prepared / "data", tmp_path / "short")
    next((tmp_path / "short" / "train").glob("part-*.parquet")).unlink()
    options = ["--recipe", "tiny", "--dataset", str(tmp_path / "short"), "--out", str(tmp_path / "adapter")]
    assert main(["train", *options]) == 2
    line = one_line(capsys)
    assert "part-00000.parquet" in line and "is missing" in line
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stage1.batch_size=1000", "only 180 training examples"),
        ("stage1.learning_rate=0", "stage1.learning_rate"),
        ("stage1.learning_rate=nan", "stage1.learning_rate"),
        ("stage1.temperature=0", "stage1.temperature"),
        ("stage1.zero_stage=4", "stage1.zero_stage"),
    ],
)
def test_train_refuses_what_cannot_be_trained(prepared, tmp_path, capsys, override, said):
    assert train(prepared, tmp_path, "--set", override) == 2
    assert said in one_line(capsys)
    assert not (tmp_path / "adapter").exists()


def test_train_looks_at_the_eval_sets_it_is_given(prepared, tmp_path, capsys):
    assert train(prepared, tmp_path, "--eval-sets", str(tmp_path)) == 2
    assert "manifest.json" in one_line(capsys)
    watch = ["--set", "stage1.dev_check.every=1"]
    assert train(prepared, tmp_path, *watch, "--eval-sets", str(prepared / "data")) == 2
    assert "holds a dataset, but a eval is needed here" in one_line(capsys)


def one_line(capsys) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_folder_no_stage_wrote_is_refused(tmp_path, capsys):
    for command in (["mine", "--dataset"], ["train", "--dataset"], ["evaluate", "--candidate", "bm25", "--eval-sets"]):
        assert main([*command, str(tmp_path), "--recipe", "tiny", "--out", str(tmp_path / "out")]) == 2
        assert "manifest.json" in one_line(capsys)
        assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_ours_is_never_replaced(prepared, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    arguments = ["--recipe", "tiny", "--dataset", str(prepared / "data"), "--out", str(tmp_path)]
    assert main(["mine", *arguments]) == 2
    assert "not nvembed's" in one_line(capsys)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_dataset_where_a_held_out_set_is_needed_is_refused(prepared, tmp_path, capsys):
    arguments = ["--recipe", "tiny", "--candidate", "bm25", "--eval-sets", str(prepared / "data")]
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert "eval" in one_line(capsys)


def test_an_adapter_is_wanted_for_a_trained_stage_and_for_no_other(prepared, tmp_path, capsys):
    arguments = ["evaluate", "--recipe", "tiny", "--eval-sets", str(prepared / "eval"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--candidate", "stage1"]) == 2
    assert "needs one" in one_line(capsys)
    assert main([*arguments, "--candidate", "base", "--adapter", str(prepared / "data")]) == 2
    assert "takes none" in one_line(capsys)
