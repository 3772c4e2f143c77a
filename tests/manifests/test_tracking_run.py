"""A pipeline run tracked by MLflow as the manifests run it: SQLite on a claim, and Postgres with artifacts in S3.

The server is reached under its service name, killed in the middle and started again; nothing may be lost. Its backup is
then restored into an empty database, by the manifests' own commands.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import nvembed
from manifest_files import FOLDER, documents, pod_of
from mlflow_service import CLUSTER_DNS, Server, World, free_port, status
from tracked_service import BUCKET, S3_KEYS, SEARCH, SERVICE, Tracked, basic, container, plain, production, s3

from nvembed.modeling import NVEmbedModel
from nvembed.registry.waiting import DUE_TAG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module", params=["plain", "production"])
def tracked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    before = dict(os.environ)
    with {"plain": plain, "production": production}[request.param](tmp_path_factory.mktemp(request.param)) as found:
        yield found
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def finished(tracked: Tracked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `tiny` whose server dies while stage 1 trains and comes back while stage 2 does; its output folder."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "sitecustomize.py").write_text(CLUSTER_DNS)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "NVEMBED_"))},
        **tracked.pipeline,
        "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "MLFLOW_TRACKING_URI": SERVICE,
        "SERVICE_PORT": str(tracked.server.port),
    }
    command = [sys.executable, "-m", "nvembed.cli", "run", "--recipe", "tiny", "--output-dir", str(folder / "out")]
    if tracked.s3:
        environment |= {"AWS_ENDPOINT_URL": tracked.s3, "AWS_REGION": "us-east-1", **S3_KEYS}
        command += ["--set", "data.source=file", "--set", f"data.path={upload_pairs(tracked.s3)}"]
    log = folder / "run.log"
    for _ in range(4):  # the first call of each worker is slow, and a run gives its server four seconds at the door
        status(tracked.server.port, SEARCH, "mlflow", basic(tracked.pipeline))
    with log.open("w") as stream:
        run = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=stream)
    try:
        wait_for(lambda: list(folder.glob("out/state/training/*/metrics.jsonl")), run, log)
        tracked.server.kill()
        wait_for(lambda: len(list(folder.glob("out/state/training/*/metrics.jsonl"))) > 1, run, log)
        assert status(tracked.server.port, "/health", "localhost") == 0, "stage 1 ended while nobody answered"
        tracked.server.start()
        assert run.wait(timeout=1500) == 0, log.read_text()
    finally:
        if run.poll() is None:
            run.send_signal(signal.SIGINT)
            run.wait(60)
    return folder / "out"


def upload_pairs(endpoint: str) -> str:
    from synthetic_documents import sentences

    draw = random.Random(1)
    rows = [{"query": sentences(draw, 1), "positive": sentences(draw, 3)} for _ in range(240)]
    body = "".join(json.dumps(row) + "\n" for row in rows)
    s3(endpoint).put_object(Bucket=BUCKET, Key="data/pairs.jsonl", Body=body.encode())
    return f"s3://{BUCKET}/data/pairs.jsonl"


def wait_for(condition: Any, run: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 1500
    while not condition():
        assert run.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.05)


def told(mlflow: Any) -> dict[str, Any]:
    """All that a tracking server tells of runs and models, down to every point of every metric; lists in one order."""
    runs = {}
    for experiment in mlflow.search_experiments():
        for run in mlflow.search_runs([experiment.experiment_id], max_results=1000):
            run_id = run.info.run_id
            history = {
                name: sorted((one.step, one.timestamp, one.value) for one in mlflow.get_metric_history(run_id, name))
                for name in run.data.metrics
            }
            whole = run.to_dictionary()
            for several in (part for part in whole.values() if isinstance(part, dict)):
                several |= {name: sorted(found, key=str) for name, found in several.items() if isinstance(found, list)}
            runs[run_id] = {**whole, "history": history}
    models = {}
    for model in mlflow.search_registered_models():
        versions = mlflow.search_model_versions(f"name = '{model.name}'")
        said = {one.version: [one.source, one.run_id, one.status, dict(one.tags)] for one in versions}
        models[model.name] = [dict(mlflow.get_registered_model(model.name).aliases), said]
    return {"runs": runs, "models": models}


def test_nothing_is_lost_while_the_server_was_dead(tracked: Tracked, finished: Path) -> None:
    mlflow = tracked.ask()
    spools = list(finished.glob("state/spool/*"))
    assert len(spools) >= 8
    points = 0
    for spool in spools:
        ledger = json.loads((spool / "task.json").read_text())
        assert ledger["closed"] and not ledger["todo"], ledger["task"]
        run = mlflow.get_run(ledger["child"])
        assert run.info.status == "FINISHED", ledger["task"]
        wanted: dict[str, list[tuple[int, float]]] = {}
        lines = (spool / "metrics.jsonl").read_text().splitlines() if (spool / "metrics.jsonl").is_file() else []
        for line in lines:
            record = json.loads(line)
            for name, value in record["metrics"].items():
                wanted.setdefault(name, []).append((record["step"], value))
        for name, expected in wanted.items():
            if any(value != value for _, value in expected):
                continue  # MLflow takes no NaN
            found = [(one.step, one.value) for one in mlflow.get_metric_history(ledger["child"], name)]
            assert sorted(found) == sorted(expected), (ledger["task"], name)
            points += len(found)
    assert points > 50


def test_the_model_comes_back_as_it_was_registered(tracked: Tracked, finished: Path, tmp_path: Path) -> None:
    import mlflow as package

    mlflow = tracked.ask()
    (version,) = mlflow.search_model_versions("name = 'nvembed-tiny'")
    if tracked.overlay == "production":  # there the pipeline may register and no more
        assert not mlflow.get_registered_model("nvembed-tiny").aliases
        assert version.tags[DUE_TAG].startswith("challenger: ")
        here = {"MLFLOW_TRACKING_URI": mlflow.tracking_uri, **tracked.user}
        done = nvembed("registry", "promote", version.name, version.version, "--challenger", cwd=tmp_path, **here)
        assert done.returncode == 0, done.stderr
    assert mlflow.get_registered_model("nvembed-tiny").aliases == {"challenger": version.version}
    got = package.artifacts.download_artifacts(
        artifact_uri=f"models:/nvembed-tiny/{version.version}",
        dst_path=str(tmp_path),
        tracking_uri=mlflow.tracking_uri,
        registry_uri=mlflow.tracking_uri,
    )
    (weights,) = Path(got).glob("artifacts/*/model.safetensors")
    (made,) = finished.glob("state/models/*/nvembed-tiny/model.safetensors")
    assert weights.read_bytes() == made.read_bytes()


def test_artifacts_lie_where_the_manifests_say(tracked: Tracked, finished: Path) -> None:
    if tracked.s3 is None:
        assert list((tracked.server.folder / "mlflow" / "artifacts").rglob("model.safetensors"))
        return
    pages = s3(tracked.s3).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="artifacts/")
    keys = [one["Key"] for page in pages for one in page["Contents"]]
    assert [key for key in keys if key.endswith("model.safetensors")]


def test_a_backup_is_restored_into_an_empty_database(tracked: Tracked, finished: Path) -> None:
    before = told(tracked.ask())
    assert len(before["runs"]) >= 10 and before["models"]["nvembed-tiny"][0]

    folder = tracked.server.folder
    done = tracked.world.run(container(tracked.overlay, "CronJob", "mlflow-backup"), folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((folder / "backup").iterdir())) == 1
    job = "sqlite" if tracked.overlay == "plain" else "postgres"
    (item,) = documents(FOLDER / "optional" / "restore" / f"{job}.yaml")
    box = pod_of(item)["spec"]["containers"][0]  # type: ignore[index]
    done = tracked.restored.run(box, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(before['runs'])} runs" in done.stdout
    if job == "postgres":
        again = tracked.restored.run(box, folder)
        assert again.returncode != 0 and "give an empty one" in again.stderr

    tracked.server.kill()
    other = Server(tracked.server.box, tracked.restored, folder, tracked.server.port)
    if job == "postgres":  # as its pod does: the configuration names the database
        start = container("production", "Deployment", "mlflow", "initContainers")
        assert tracked.restored.run(start, folder).returncode == 0
    other.start()
    try:
        after = told(tracked.ask())
    finally:
        other.kill()
        if job == "postgres":
            tracked.world.run(start, folder)
        tracked.server.start()
    assert after["models"] == before["models"] and after["runs"].keys() == before["runs"].keys()
    for run_id, run in before["runs"].items():
        assert after["runs"][run_id] == run


def test_the_champion_is_served_and_no_other_files_are(tracked: Tracked, finished: Path, tmp_path: Path) -> None:
    """KServe's own commands: what `fetch` lets through is served; one changed byte in the store, and it is not."""
    mlflow = tracked.ask()
    (version,) = mlflow.search_model_versions("name = 'nvembed-tiny'")
    (made,) = finished.glob("state/models/*/nvembed-tiny")
    mlflow.set_registered_model_alias("nvembed-tiny", "champion", version.version)
    (service,) = documents(FOLDER / "optional" / "kserve" / "champion.yaml")
    (fetch,), (serve,) = service["spec"]["predictor"]["initContainers"], service["spec"]["predictor"]["containers"]
    fetch = {**fetch, "command": ["nvembed-tiny" if word == "nvembed" else word for word in fetch["command"]]}
    port = free_port()
    here = {
        "/model": f"{tmp_path}/model",
        "=/model/model": f"={tmp_path}/model/model",
        "=0.0.0.0": "=127.0.0.1",
        "=8080": f"={port}",
    }
    world = World({**here, SERVICE: f"http://localhost:{tracked.server.port}"}, {"nvembed-tracking": tracked.user})
    done = world.run(fetch, tmp_path)
    assert done.returncode == 0, done.stderr

    texts = ["Open a file and return its contents.", "Größe"]
    log = (tmp_path / "serve.log").open("w")
    process = subprocess.Popen(
        world.command(serve), env=world.environment(serve), cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 300
        while status(port, serve["readinessProbe"]["httpGet"]["path"], "localhost") != 200:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "serve.log").read_text()
            time.sleep(0.5)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"inputs": texts}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            served = np.array(json.loads(answer.read())["predictions"], dtype=np.float32)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    np.testing.assert_allclose(served, NVEmbedModel.from_pretrained(made).encode(texts), atol=1e-5)

    if tracked.s3 is None:
        (stored,) = (tracked.server.folder / "mlflow" / "artifacts").rglob("model.safetensors")
        changed = bytearray(stored.read_bytes())
        changed[-1] ^= 1
        stored.write_bytes(changed)
        again = world.run({**fetch, "command": [*fetch["command"][:-1], str(tmp_path / "other")]}, tmp_path)
        changed[-1] ^= 1
        stored.write_bytes(changed)
        assert again.returncode == 1 and "is not served" in again.stderr
        assert not list((tmp_path / "other").iterdir())
