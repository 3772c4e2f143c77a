"""One task under tracking: what reaches MLflow, and what happens when MLflow does not answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nvembed import tracking
from nvembed.core.artifacts import read_manifest, write_manifest
from nvembed.core.metrics import log_metrics
from nvembed.tracking.client import PARENT_TAG, TASK_TAG, client, experiment_id, runs_of
from nvembed.tracking.spool import Spool

RUN = "run-00000001"
RECIPE = {
    "name": "tiny",
    "stage1": {"steps": 4, "task_types": ["retrieval"]},
    "model": {"lora": {"rank": 4}, "revision": None},
}


def _child(task: str):
    return next(run for run in runs_of(client(), RUN) if run.data.tags.get(TASK_TAG) == task)


def test_a_task_is_a_finished_child_with_its_metrics_parameters_and_system_metrics(store: str) -> None:
    parent = tracking.open_parent(RUN, RECIPE)
    with tracking.task_run("train_stage1", {"steps": 4, "learning_rate": 1e-3}):
        for step in range(3):
            log_metrics({"loss": 3.0 - step, "retrieval/ndcg@10": 0.5}, step)
    run = _child("train_stage1")
    assert run.data.tags[PARENT_TAG] == parent
    assert run.info.status == "FINISHED"
    assert run.data.params == {"steps": "4", "learning_rate": "0.001"}
    assert [(m.step, m.value) for m in client().get_metric_history(run.info.run_id, "loss")] == [
        (0, 3.0),
        (1, 2.0),
        (2, 1.0),
    ]
    assert run.data.metrics["retrieval/ndcg_at_10"] == 0.5
    assert run.data.metrics["system/task_memory_megabytes"] > 10


def test_manifests_written_inside_a_task_name_its_run(store: str, tmp_path: Path) -> None:
    with tracking.task_run("prepare_data") as run:
        write_manifest(tmp_path, kind="dataset", section={})
        inside = os.environ["NVEMBED_TRACKING_RUN_ID"]
    assert read_manifest(tmp_path).tracking_run_id == inside == run.id
    assert "NVEMBED_TRACKING_RUN_ID" not in os.environ and "NVEMBED_METRICS" not in os.environ


def test_reports_become_artifacts_and_weights_do_not(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    (folder / "train").mkdir(parents=True)
    for name in ("curves.png", "report.html", "trainable.safetensors", "train/part-00000.parquet", "train/note.md"):
        (folder / name).write_bytes(b"x")
    (folder / "huge.json").write_bytes(b"x" * (2 << 20))
    write_manifest(folder, kind="adapter", section={})
    with tracking.task_run("train_stage1") as run:
        run.log_folder(folder)
    listed = {item.path for item in client().list_artifacts(_child("train_stage1").info.run_id, "adapter")}
    assert listed == {"adapter/curves.png", "adapter/report.html", "adapter/manifest.json", "adapter/train"}
    inner = {item.path for item in client().list_artifacts(_child("train_stage1").info.run_id, "adapter/train")}
    assert inner == {"adapter/train/note.md"}


def test_a_dataset_is_named_by_digest_with_its_counts_and_licences(store: str, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    manifest = write_manifest(
        tmp_path / "part", kind="dataset", section={}, counts={"retrieval": 7}, licenses={"docs": "PSF-2.0"}
    )
    with tracking.task_run("prepare_data") as run:
        run.log_dataset("train", manifest)
    logged = _child("prepare_data").inputs.dataset_inputs[0]
    assert manifest.content.startswith(logged.dataset.digest)
    assert json.loads(logged.dataset.profile) == {"counts": {"retrieval": 7}, "licenses": {"docs": "PSF-2.0"}}
    assert {tag.key: tag.value for tag in logged.tags}["nvembed.licenses"] == "PSF-2.0"


def test_every_source_of_a_mix_is_an_input_and_one_parameter(store: str, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    counts = {"rows": 9, "unusable_rows": 1, "left_by_cap": 2, "dropped_negatives": 0, "examples": 5}
    source = {
        **counts,
        "name": "nq",
        "digest": "ab" * 32,
        "place": "o/nq@1234 pair/train",
        "revision": "1234",
        "license": "cc-by-sa-4.0",
        "license_on_card": None,
        "dropped": {"exact duplicate": 1},
    }
    manifest = write_manifest(tmp_path / "part", kind="dataset", section={}, extra={"sources": [source]})
    with tracking.task_run("prepare_data", {"seed": 1, "sources": {"nq": {"repo": "o/nq", "cap": 8}}}) as run:
        run.log_dataset("train", manifest)
    child = _child("prepare_data")
    assert set(child.data.params) == {"seed", "sources.nq"}
    logged = {one.dataset.name: one for one in child.inputs.dataset_inputs}
    assert set(logged) == {"train", "nq"}
    assert json.loads(logged["nq"].dataset.source) == {"place": "o/nq@1234 pair/train", "revision": "1234"}
    assert json.loads(logged["nq"].dataset.profile) == {**counts, "dropped": {"exact duplicate": 1}}
    assert {tag.key: tag.value for tag in logged["nq"].tags}["nvembed.licenses"] == "cc-by-sa-4.0"


def test_a_task_that_raises_is_failed_and_says_why(store: str) -> None:
    with pytest.raises(RuntimeError), tracking.task_run("mine_hard_negatives"):
        raise RuntimeError("no neighbours")
    run = _child("mine_hard_negatives")
    assert run.info.status == "FAILED"
    assert run.data.tags["nvembed.error"] == "RuntimeError: no neighbours"


def test_a_task_that_is_told_to_stop_is_killed_in_mlflow_too(store: str) -> None:
    with pytest.raises(SystemExit), tracking.task_run("train_stage1"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert _child("train_stage1").info.status == "KILLED"


def test_a_retry_goes_on_with_the_run_of_the_first_try(store: str) -> None:
    with pytest.raises(RuntimeError), tracking.task_run("train_stage1"):
        log_metrics({"loss": 2.0}, 0)
        raise RuntimeError("power cut")
    with tracking.task_run("train_stage1"):
        log_metrics({"loss": 1.0}, 1)
    runs = [run for run in runs_of(client(), RUN) if run.data.tags.get(TASK_TAG) == "train_stage1"]
    assert len(runs) == 1 and runs[0].info.status == "FINISHED"
    assert [m.value for m in client().get_metric_history(runs[0].info.run_id, "loss")] == [2.0, 1.0]


def test_the_run_that_kubeflows_plugin_made_is_used_and_left_open(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = client().create_run(experiment_id(client()), run_name="nested").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs)
    with tracking.task_run("train_stage1") as run:
        log_metrics({"loss": 1.0}, 0)
        assert run.id == theirs
    after = client().get_run(theirs)
    assert after.data.metrics["loss"] == 1.0 and after.info.status == "RUNNING"
    assert len(client().search_runs([experiment_id(client())])) == 1


def test_without_a_server_a_task_runs_untracked_and_leaves_nothing(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with tracking.task_run("train_stage1", {"steps": 4}) as run:
        run.log_metrics({"loss": 1.0})
        run.log_folder(tmp_path)
        assert run.id is None and "NVEMBED_METRICS" not in os.environ
    assert not (tmp_path / "state").exists()


def test_a_server_that_dies_costs_the_task_nothing_and_the_rest_is_sent_at_the_end(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tracking.open_parent(RUN, RECIPE)
    started = time.monotonic()
    with tracking.task_run("train_stage1", {"steps": 2}) as run:
        log_metrics({"loss": 2.0}, 0)
        child = run.id
        deadline = time.monotonic() + 20
        while "loss" not in client().get_run(child).data.metrics and time.monotonic() < deadline:
            time.sleep(0.2)
        (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
        (tmp_path / "mlflow.db").mkdir()  # the store is there, and nothing can be opened in it
        log_metrics({"loss": 1.0}, 1)
        run.log_folder(tmp_path / "state")
    assert time.monotonic() - started < 30
    (tmp_path / "mlflow.db").rmdir()
    (tmp_path / "away.db").rename(tmp_path / "mlflow.db")
    assert client().get_run(child).info.status == "RUNNING"
    tracking.close_parent(RUN, "SUCCEEDED")
    after = client().get_run(child)
    assert after.info.status == "FINISHED" and after.data.tags[PARENT_TAG] == parent
    assert [m.value for m in client().get_metric_history(child, "loss")] == [2.0, 1.0]


def test_a_server_that_was_never_there_gets_everything_at_the_end(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with tracking.task_run("mine_hard_negatives", {"depth": 50}) as run:
        log_metrics({"kept": 7.0}, 0)
        assert run.id is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    tracking.close_parent(RUN, "SUCCEEDED")
    late = _child("mine_hard_negatives")
    assert late.data.metrics["kept"] == 7.0 and late.data.params == {"depth": "50"} and late.info.status == "FINISHED"


def test_half_a_line_waits_for_its_other_half(store: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    child = client().create_run(experiment_id(client())).info.run_id
    spool.append({"loss": 1.0}, 0)
    with spool.metrics.open("a") as stream:
        stream.write('{"time": 1, "step": 1, "met')
        stream.flush()
        assert spool.send(client(), child) == 1
        stream.write('rics": {"loss": 2.0}}\n')
    assert spool.send(client(), child) == 1
    assert spool.send(client(), child) == 0
    assert client().get_run(child).data.metrics["loss"] == 2.0


def test_a_torn_line_and_what_is_no_number_are_left_out(store: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    child = client().create_run(experiment_id(client())).info.run_id
    spool.append({"loss": float("nan"), "rate": 0.5}, 0)
    with spool.metrics.open("a") as stream:
        stream.write("garbage\n")
    spool.append({"rate": 0.25}, 1)
    assert spool.send(client(), child) == 2
    assert client().get_run(child).data.metrics == {"rate": 0.25}


def test_more_metrics_than_one_call_takes_all_arrive(store: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    child = client().create_run(experiment_id(client())).info.run_id
    for step in range(1100):
        spool.append({"a": step, "b": -step}, step)
    assert spool.send(client(), child) == 2200
    assert client().get_run(child).data.metrics == {"a": 1099.0, "b": -1099.0}


_WRITER = """
import sys
from nvembed import tracking
from nvembed.core.metrics import log_metrics
with tracking.task_run(sys.argv[1], {"who": sys.argv[1]}):
    for step in range(500):
        log_metrics({"loss": float(step), "rate": 1.0}, step)
"""


def test_two_tasks_may_write_to_one_store_at_once(store: str) -> None:
    tracking.open_parent(RUN, RECIPE)
    names = ["evaluate_base", "evaluate_stage2"]
    tasks = [subprocess.Popen([sys.executable, "-c", _WRITER, name]) for name in names]
    assert [task.wait(timeout=120) for task in tasks] == [0, 0]
    for name in names:
        run = _child(name)
        assert run.info.status == "FINISHED" and run.data.params == {"who": name}
        assert len(client().get_metric_history(run.info.run_id, "loss")) == 500
