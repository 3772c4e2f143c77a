"""The pipeline's own run, and what it shows of its tasks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nvembed import tracking
from nvembed.core.artifacts import write_manifest
from nvembed.core.errors import UserError
from nvembed.core.lifeline import process_identity
from nvembed.recipe import load_recipe
from nvembed.tracking.client import PARENT_TAG, TASK_TAG, client, experiment_id, runs_of

RUN = "run-00000001"


def _folder(path: Path, kind: str, headline: dict[str, float]) -> Path:
    path.mkdir(parents=True)
    (path / "scores.png").write_bytes(b"picture")
    write_manifest(path, kind=kind, section={}, headline=headline)
    return path


def test_the_parent_shows_the_whole_recipe_and_what_was_overridden(store: str) -> None:
    recipe = load_recipe("tiny", ["stage2.learning_rate=1e-5"])
    parent = tracking.open_parent(RUN, recipe, {"who": "me"}, overrides=["stage2.learning_rate=1e-5"])
    run = client().get_run(parent)
    assert run.info.run_name == "tiny 00000001"
    assert run.data.params["stage2.learning_rate"] == "1e-05"
    assert run.data.params["model.lora.rank"] == "4"
    assert run.data.tags["nvembed.overrides"] == "stage2.learning_rate=1e-5"
    assert run.data.tags["who"] == "me" and len(run.data.tags["nvembed.code"]) == 64
    file = client().download_artifacts(parent, "recipe.yaml")
    assert load_recipe(file) == recipe


def test_artifacts_lie_beside_the_database(store: str, tmp_path: Path) -> None:
    tracking.open_parent(RUN, load_recipe("tiny"))
    assert list((tmp_path / "mlartifacts").rglob("recipe.yaml"))


def test_a_retry_of_the_first_task_finds_the_parent_it_made(store: str) -> None:
    assert tracking.open_parent(RUN, load_recipe("tiny")) == tracking.open_parent(RUN, load_recipe("tiny"))
    assert len(runs_of(client(), RUN)) == 1


def test_a_task_that_began_before_the_parent_becomes_its_child(store: str) -> None:
    with tracking.task_run("resolve_recipe"):
        parent = tracking.open_parent(RUN, load_recipe("tiny"))
    assert tracking.find_parent(RUN) == parent
    child = next(run for run in runs_of(client(), RUN) if TASK_TAG in run.data.tags)
    assert child.data.tags[PARENT_TAG] == parent


def test_the_parent_that_kubeflows_plugin_made_is_used_and_left_open(store: str) -> None:
    theirs = client().create_run(experiment_id(client()), tags={"kfp.pipeline_run_id": RUN}).info.run_id
    assert tracking.open_parent(RUN, load_recipe("tiny")) == theirs
    tracking.close_parent(RUN, "SUCCEEDED")
    after = client().get_run(theirs)
    assert after.info.status == "RUNNING" and after.data.params["name"] == "tiny"


def test_a_server_that_is_away_stops_the_first_task_in_one_line(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be reached"):
        tracking.open_parent(RUN, load_recipe("tiny"))


@pytest.mark.parametrize(
    ("state", "status"), [("SUCCEEDED", "FINISHED"), ("FAILED", "FAILED"), ("CANCELLED", "KILLED"), ("ODD", "FAILED")]
)
def test_the_pipelines_state_is_the_parents_end(store: str, state: str, status: str) -> None:
    parent = tracking.open_parent(RUN, load_recipe("tiny"))
    tracking.close_parent(RUN, state)
    assert client().get_run(parent).info.status == status


def test_closing_twice_keeps_the_first_end(store: str) -> None:
    parent = tracking.open_parent(RUN, load_recipe("tiny"))
    tracking.close_parent(RUN, "FAILED", error="train_stage1: out of memory")
    first = client().get_run(parent)
    tracking.close_parent(RUN, "SUCCEEDED")
    second = client().get_run(parent)
    assert second.info.status == "FAILED" and second.info.end_time == first.info.end_time
    assert second.data.tags["nvembed.error"] == "train_stage1: out of memory"
    assert second.data.metrics["duration_seconds"] >= 0


def test_closing_a_run_that_was_never_opened_is_no_error(store: str) -> None:
    tracking.close_parent("run-unknown", "FAILED")
    tracking.close_parent("", "FAILED")


def test_closing_inside_a_task_leaves_that_task_its_own_end(store: str) -> None:
    tracking.open_parent(RUN, load_recipe("tiny"))
    with tracking.task_run("finalize_run"):
        tracking.close_parent(RUN, "SUCCEEDED")
    assert {run.info.status for run in runs_of(client(), RUN)} == {"FINISHED"}


def test_a_task_that_died_without_a_word_is_closed_with_the_run(store: str) -> None:
    tracking.open_parent(RUN, load_recipe("tiny"))
    script = "import os; from nvembed import tracking\nwith tracking.task_run('train_stage1'): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 9
    tracking.close_parent(RUN, "FAILED")
    child = next(run for run in runs_of(client(), RUN) if TASK_TAG in run.data.tags)
    assert child.info.status == "KILLED"


def test_the_next_run_closes_what_a_killed_run_left_open(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        monkeypatch.setenv("NVEMBED_PARENT", process_identity(process.pid) or "")
        old = tracking.open_parent("run-old", load_recipe("tiny"))
        tracking.open_parent("run-beside", load_recipe("tiny"))
        assert client().get_run(old).info.status == "RUNNING"
        process.kill()
    monkeypatch.delenv("NVEMBED_PARENT")
    tracking.open_parent(RUN, load_recipe("tiny"))
    assert client().get_run(old).info.status == "KILLED"


def test_headlines_of_all_tasks_reach_the_parent_cached_ones_included(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVEMBED_TRACKING_RUN_ID", "of-an-earlier-run")
    mined = _folder(tmp_path / "mined", "mined", {"mining.negatives": 2.0})
    monkeypatch.delenv("NVEMBED_TRACKING_RUN_ID")
    compared = _folder(tmp_path / "compared", "comparison", {"compare.stage2.gain": 0.05, "odd": float("nan")})
    parent = tracking.open_parent(RUN, load_recipe("tiny"))
    folders = {"mine_hard_negatives": mined, "compare_models": compared, "train_stage1": tmp_path / "never made"}
    tracking.log_headlines(RUN, folders, first={"challenger.gain": 0.05}, verdict="Stage 2 beats the champion.")
    run = client().get_run(parent)
    assert run.data.metrics == {"mining/negatives": 2.0, "compare/stage2.gain": 0.05, "challenger/gain": 0.05}
    assert next(iter(run.data.metrics)) == "challenger/gain", "MLflow's compare page draws the one logged first"
    assert run.data.tags["nvembed.verdict"] == "Stage 2 beats the champion."
    assert run.data.tags["nvembed.task.mine_hard_negatives"] == "of-an-earlier-run"
    listed = {item.path for item in client().list_artifacts(parent, "comparison")}
    assert listed == {"comparison/scores.png", "comparison/manifest.json"}


def test_the_parent_names_the_datasets_and_shows_the_table_of_scores(store: str, tmp_path: Path) -> None:
    parent = tracking.open_parent(RUN, load_recipe("tiny"))
    kinds = {"prepare_data": "dataset", "mine_hard_negatives": "mined", "compare_models": "comparison"}
    folders = {task: _folder(tmp_path / task, kind, {}) for task, kind in kinds.items()}
    (folders["compare_models"] / "table.md").write_text("| model | nDCG@10 |\n|---|---|\n| Stage 2 | 0.6 |\n")
    for _ in range(2):  # as a retry does
        tracking.log_headlines(RUN, folders, _folder(tmp_path / "eval", "eval", {}))
        shutil.rmtree(tmp_path / "eval")
    run = client().get_run(parent)
    assert sorted(given.dataset.name for given in run.inputs.dataset_inputs) == ["eval", "mined", "train"]
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith(load_recipe("tiny").description)
    assert note.count("| Stage 2 | 0.6 |") == 1


def test_a_headline_that_two_tasks_share_keeps_both_values(store: str, tmp_path: Path) -> None:
    parent = tracking.open_parent(RUN, load_recipe("tiny"))
    folders = {task: _folder(tmp_path / task, "adapter", {"loss": loss}) for task, loss in [("a", 1.0), ("b", 2.0)]}
    tracking.log_headlines(RUN, folders)
    assert client().get_run(parent).data.metrics == {"a/loss": 1.0, "b/loss": 2.0}


def test_headlines_without_a_pipeline_run_are_no_error(store: str, tmp_path: Path) -> None:
    tracking.log_headlines("", {"a": tmp_path})
    tracking.log_headlines("run-unknown", {"a": tmp_path})
