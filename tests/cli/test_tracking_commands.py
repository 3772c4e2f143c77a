"""`nvembed compare`, `registry list` and `ui` read what MLflow holds."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from nvembed import tracking
from nvembed.cli import main
from nvembed.recipe import load_recipe

NVEMBED = Path(sys.executable).with_name("nvembed")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An output folder whose MLflow store holds two pipeline runs, a task's run and a model with two versions."""
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("NVEMBED_STATE", str(folder / "state"))
        from nvembed.tracking.client import client

        mlflow = client()
        for run_id, steps, score in (("run-aaaaaaaa", 3, 0.5), ("run-bbbbbbbb", 4, 0.625)):
            patch.setenv("NVEMBED_RUN_ID", run_id)
            parent = tracking.open_parent(run_id, load_recipe("tiny", [f"stage1.steps={steps}"]))
            assert parent is not None
            mlflow.log_metric(parent, "evaluate_stage2/test.retrieval", score)
            mlflow.set_tag(parent, "nvembed.verdict", f"A verdict on {steps} steps.")
            with tracking.task_run("train_stage1", {}):
                pass
            tracking.close_parent(run_id, "SUCCEEDED")
        mlflow.create_registered_model("tiny")
        for _ in range(2):
            mlflow.create_model_version("tiny", f"file://{folder}", run_id=None)
        mlflow.set_registered_model_alias("tiny", "champion", "1")
        mlflow.set_registered_model_alias("tiny", "challenger", "2")
    return folder


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch):
    # set first, so that what the command puts there is undone after the test
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("NVEMBED_STATE", "")
    monkeypatch.delenv("NVEMBED_STATE")


def test_track_sync_sends_what_no_server_took_and_again_sends_nothing(store, capsys, monkeypatch):
    from nvembed.tracking.client import TASK_TAG, client, runs_of

    monkeypatch.setenv("NVEMBED_STATE", str(store / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("NVEMBED_RUN_ID", "run-cccccccc")
    with tracking.task_run("train_stage2", {"steps": 3}) as run:
        for step in range(3):
            run.log_metrics({"train/loss": 3.0 - step}, step)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert main(["track", "sync", "--output-dir", str(store)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    count = int(line.removeprefix("run-cccccccc  train_stage2: ").removesuffix(" metrics sent, its run is closed"))
    assert count >= 3, "system metrics may be among them"
    (run,) = [run for run in runs_of(client(), "run-cccccccc") if run.data.tags[TASK_TAG] == "train_stage2"]
    assert run.info.status == "FINISHED"
    history = client().get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert main(["track", "sync", "--output-dir", str(store)]) == 0
    assert capsys.readouterr().out == "nothing is left to be sent\n"


def test_compare_shows_both_numbers_their_difference_and_what_the_recipes_do_differently(store, capsys):
    assert main(["compare", "aaaaaaaa", "latest", "--output-dir", str(store)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["evaluate_stage2/test.retrieval", "0.5000", "0.6250", "+0.1250"] in lines
    assert ["stage1.steps", "3", "4"] in lines
    assert ["tiny", "aaaaaaaa", "A", "verdict", "on", "3", "steps."] in lines
    assert not [line for line in lines if line and line[0] == "stage2.steps"]


def test_compare_counts_back_from_the_latest_and_leaves_task_runs_out(store, capsys):
    assert main(["compare", "latest~1", "latest", "--output-dir", str(store)]) == 0
    assert "+0.1250" in capsys.readouterr().out
    assert main(["compare", "latest~2", "latest", "--output-dir", str(store)]) == 2
    assert "2 pipeline runs" in capsys.readouterr().err


def test_compare_of_an_unknown_run_names_those_there_are(store, capsys):
    assert main(["compare", "cccccccc", "latest", "--output-dir", str(store)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tiny aaaaaaaa" in line


def test_registry_list_shows_versions_with_their_aliases_newest_first(store, capsys):
    assert main(["registry", "list", "--output-dir", str(store)]) == 0
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [["tiny", "2", "challenger"], ["tiny", "1", "champion"]]


def test_promote_and_rollback_move_the_champion_there_and_back(store, capsys):
    assert main(["registry", "promote", "tiny", "2", "--why", "it is smaller", "--output-dir", str(store)]) == 0
    assert main(["registry", "list", "tiny", "--output-dir", str(store)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "champion" in lines[2] and "promoted by" in lines[2]
    assert "champion" not in lines[3]
    assert lines[5].startswith("version 2 promoted by ") and lines[6] == "  it is smaller"
    assert main(["registry", "rollback", "tiny", "--output-dir", str(store)]) == 0
    assert capsys.readouterr().out == "tiny version 1 is champion again\n"
    assert main(["registry", "promote", "tiny", "9", "--output-dir", str(store)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("command", [["registry", "list"], ["compare", "a", "b"], ["ui"]])
def test_a_folder_without_a_store_is_refused_and_stays_empty(command, tmp_path, capsys):
    assert main([*command, "--output-dir", str(tmp_path)]) == 2
    assert "no MLflow store" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_ui_serves_the_local_store_on_the_loopback_address_and_ends_with_the_command(store):
    process = subprocess.Popen(
        [str(NVEMBED), "ui", "--output-dir", str(store)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[2]
        assert address.startswith("http://127.0.0.1:")
        assert process.stdout.readline().split()[1] == f"{address}/#/experiments/1/runs?workflowType=machine_learning"
        until = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.5)
    finally:
        process.terminate()
        process.wait(timeout=30)
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{address}/health", timeout=5)
