"""MLflow killed for the middle third of a training run: the steps go on, and every metric is there in the end.

The parts are real: a server on a SQLite store, killed by SIGKILL and started again on that store, and `nvembed train`.
That training does not wait is held without a clock: the middle third of its steps is taken while nobody answers, and
no rank ever has a connection to the server.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import nvembed
from mlflow_server import Server, wait_until
from training.support import make_dataset, make_examples

from nvembed.tracking.client import TASK_TAG, client, experiment_id

STEPS = 60


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Iterator[Server]:
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    server = Server(tmp_path)
    server.start()
    server.wait()
    yield server
    server.kill()


def records(state: Path) -> list[dict[str, float]]:
    """Steps taken so far."""
    files = list((state / "training").glob("*/metrics.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.endswith("}")]


def ranks(training: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that take the steps."""
    children = psutil.Process(training.pid).children(recursive=True)
    return [one for one in children if one.cmdline()[1:4] == ["-u", "-m", "nvembed.training.worker"]]


@pytest.mark.slow
def test_steps_go_on_without_a_server_and_every_metric_arrives(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    dataset = make_dataset(tmp_path / "dataset", make_examples(40))
    for name in ("NVEMBED_RUN_ID", "KFP_RUN_ID", "MLFLOW_RUN_ID", "NVEMBED_METRICS", "NVEMBED_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("NVEMBED_STATE", str(state))
    command = [sys.executable, "-m", "nvembed.cli", "train", "--recipe", "tiny", "--set", f"stage1.steps={STEPS}"]
    command += ["--dataset", str(dataset), "--out", str(tmp_path / "adapter")]
    with (tmp_path / "train.log").open("w") as log:
        training = subprocess.Popen(command, stdout=log, stderr=log, text=True)

    def said() -> str:
        return (tmp_path / "train.log").read_text()[-3000:]

    wait_until(lambda: len(records(state)) >= STEPS // 3 or training.poll() is not None, said)
    assert training.poll() is None, said()
    (rank,) = ranks(training)
    assert not [one for one in rank.net_connections() if one.raddr and one.raddr.port == server.port]
    server.kill()
    reached = len(records(state))
    wait_until(lambda: len(records(state)) >= 2 * STEPS // 3 or training.poll() is not None, said)
    assert reached < 2 * STEPS // 3 <= len(records(state)), "the middle third was taken while nobody answered"
    server.start()
    assert training.wait(timeout=240) == 0, said()
    server.wait()

    sync = nvembed("track", "sync", cwd=tmp_path, MLFLOW_TRACKING_URI=server.uri, NVEMBED_STATE=str(state))
    assert sync.returncode == 0, sync.stderr
    (run,) = client().search_runs([experiment_id(client())])
    assert run.data.tags[TASK_TAG] == "train_stage1" and run.info.status == "FINISHED"
    taken = records(state)
    assert len(taken) == STEPS
    for name in set(taken[0]) - {"step", "time"}:
        history = client().get_metric_history(run.info.run_id, f"train/{name}")
        found = sorted((metric.step, metric.value) for metric in history)
        assert found == [(record["step"], record[name]) for record in taken], name
