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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manifest_files import FOLDER, built, documents, named, pod_of
from mlflow_service import CLUSTER_DNS, Server, World, free_port, postgres, status

from nvembed.modeling import NVEmbedModel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SERVICE = "http://mlflow.nvembed.svc.cluster.local:5000"
PASSWORDS = {"pipeline": "pipeline-password-1", "promoter": "promoter-password-1", "serving": "serving-password-1"}
ADMIN = "an-admin's-p@ssword%1"
BUCKET = "nvembed-mlflow"
S3_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def container(overlay: str, kind: str, name: str, part: str = "containers") -> dict[str, Any]:
    (box,) = pod_of(named(built(overlay), kind, name))["spec"][part]  # type: ignore[index]
    return box


@dataclass
class Tracked:
    """A server, and how to reach it."""

    overlay: str
    server: Server
    world: World
    restored: World
    user: dict[str, str]
    s3: str | None = None

    def ask(self, user: dict[str, str] | None = None) -> Any:
        """A client of the server; `MlflowClient` reads the log-in from the environment when it calls."""
        from mlflow.tracking import MlflowClient

        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            os.environ.pop(name, None)
        os.environ |= self.user if user is None else user
        return MlflowClient(tracking_uri=f"http://localhost:{self.server.port}")


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    port = free_port()
    with (folder / "moto.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while status(port, "/moto-api/", "localhost") != 200:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "moto.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def plain(folder: Path) -> Iterator[Tracked]:
    port = free_port()
    network = {"=0.0.0.0": "=127.0.0.1", "=5000": f"={port}"}
    (folder / "mlflow").mkdir()
    (folder / "backup").mkdir()
    (folder / "restored").mkdir()
    places = {"/mlflow/": f"{folder}/mlflow/", "/backup": f"{folder}/backup", **network}
    world = World(places)
    restored = World({**places, "/mlflow/mlflow.db": f"{folder}/restored/mlflow.db", "/mlflow/": f"{folder}/mlflow/"})
    server = Server(container("plain", "Deployment", "mlflow"), world, folder, port)
    server.start()
    yield Tracked("plain", server, world, restored, {})
    server.kill()


@contextmanager
def production(folder: Path) -> Iterator[Tracked]:
    port = free_port()
    for name in ("backup", "auth", "passwords"):
        (folder / name).mkdir()
    for name, password in PASSWORDS.items():
        (folder / "passwords" / name).write_text(f"{password}\n")
    with postgres("a%b-password") as database, s3_server(folder) as s3:
        address = f"postgresql://mlflow:a%25b-password@127.0.0.1:{database}"
        secrets = {
            "mlflow-database": {"uri": f"{address}/mlflow"},
            "mlflow-server": {"admin-password": ADMIN, "flask-key": "k" * 40},
            "mlflow-artifacts": S3_KEYS,
        }
        (config,) = [one for one in built("production") if one["metadata"]["name"] == "mlflow-artifacts"]
        configs = {"mlflow-artifacts": {**config["data"], "MLFLOW_S3_ENDPOINT_URL": s3}}
        make_bucket(s3)
        places = {
            **{f"/{name}": folder / name for name in ("backup", "auth", "passwords")},
            **{"=0.0.0.0": "=127.0.0.1", "=5000": f"={port}", "mlflow.nvembed:5000": f"localhost:{port}"},
        }
        world = World(places, secrets, configs)
        restored = World(places, {**secrets, "mlflow-database": {"uri": f"{address}/restored"}}, configs)
        two_replicas_begin(world, folder)
        server = Server(container("production", "Deployment", "mlflow"), world, folder, port)
        server.start()
        done = world.run(container("production", "CronJob", "mlflow-accounts"), folder)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Tracked("production", server, world, restored, login("promoter"), s3)
        server.kill()


def login(name: str, password: str | None = None) -> dict[str, str]:
    return {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password or PASSWORDS[name]}


def make_bucket(endpoint: str) -> None:
    s3(endpoint).create_bucket(Bucket=BUCKET)


def s3(endpoint: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)


def two_replicas_begin(world: World, folder: Path) -> None:
    """Both find an empty database; the second waits for the first."""
    box = container("production", "Deployment", "mlflow", "initContainers")
    both = [
        subprocess.Popen(
            world.command(box), env=world.environment(box), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(2)
    ]
    for one in both:
        said, _ = one.communicate(timeout=300)
        assert one.returncode == 0, said.decode()


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
        **tracked.user,
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
        status(tracked.server.port, SEARCH, "mlflow", basic(tracked.user))
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
    """All that a tracking server tells of runs and models, down to every point of every metric."""
    runs = {}
    for experiment in mlflow.search_experiments():
        for run in mlflow.search_runs([experiment.experiment_id], max_results=1000):
            history = {
                name: [(one.step, one.value, one.timestamp) for one in mlflow.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            }
            runs[run.info.run_id] = [run.to_dictionary(), history]
    models = {}
    for model in mlflow.search_registered_models():
        versions = mlflow.search_model_versions(f"name = '{model.name}'")
        whole = {one.version: [one.source, one.run_id, one.status, dict(one.tags)] for one in versions}
        models[model.name] = [dict(mlflow.get_registered_model(model.name).aliases), whole]
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
    aliases = mlflow.get_registered_model("nvembed-tiny").aliases
    assert aliases["challenger"] == version.version
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
        assert told(tracked.ask()) == before
    finally:
        other.kill()
    if job == "postgres":
        assert tracked.world.run(start, folder).returncode == 0
    tracked.server.start()


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
    here = {"/model": str(tmp_path / "model"), "=0.0.0.0": "=127.0.0.1", "=8080": f"={port}"}
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


@pytest.mark.parametrize("host", ["mlflow", "mlflow.nvembed:5000", "mlflow.nvembed.svc.cluster.local:5000"])
def test_it_answers_under_its_service_name(tracked: Tracked, host: str) -> None:
    assert status(tracked.server.port, SEARCH, host, basic(tracked.user)) == 200


@pytest.mark.parametrize("host", ["mlflow.evil.com", "mlflow.nvembed.evil.com", "10.1.2.3:5000"])
def test_a_strange_host_name_is_refused(tracked: Tracked, host: str) -> None:
    assert status(tracked.server.port, SEARCH, host, basic(tracked.user)) == 403


SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


def basic(user: dict[str, str]) -> dict[str, str]:
    import base64

    if not user:
        return {}
    pair = f"{user['MLFLOW_TRACKING_USERNAME']}:{user['MLFLOW_TRACKING_PASSWORD']}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


class TestWhoMayDoWhat:
    """Accounts, in production alone."""

    @pytest.fixture(autouse=True)
    def _production(self, tracked: Tracked) -> None:
        if tracked.overlay != "production":
            pytest.skip("the plain server knows no accounts")

    def refused(self, call: Any, *arguments: Any, **options: Any) -> None:
        from mlflow.exceptions import MlflowException

        with pytest.raises(MlflowException) as caught:
            call(*arguments, **options)
        assert caught.value.error_code == "PERMISSION_DENIED"

    def registered(self, tracked: Tracked, name: str) -> str:
        mlflow = tracked.ask(login("pipeline"))
        run = mlflow.create_run(mlflow.create_experiment(name))
        mlflow.create_registered_model(name)
        source = f"{run.info.artifact_uri}/model"
        return mlflow.create_model_version(name, source, run.info.run_id).version

    def test_nobody_gets_in_without_a_log_in(self, tracked: Tracked) -> None:
        assert status(tracked.server.port, SEARCH, "mlflow") == 401
        assert status(tracked.server.port, SEARCH, "mlflow", basic(login("pipeline", "wrong-password-1"))) == 401
        assert status(tracked.server.port, "/health", "10.1.2.3:5000") == 200

    def test_the_pipeline_registers_and_only_a_promoter_sets_aliases(self, tracked: Tracked) -> None:
        number = self.registered(tracked, "one")
        mlflow = tracked.ask(login("pipeline"))
        self.refused(mlflow.set_registered_model_alias, "one", "champion", number)
        tracked.ask(login("promoter")).set_registered_model_alias("one", "champion", number)
        mlflow = tracked.ask(login("pipeline"))
        mlflow.set_model_version_tag("one", number, "nvembed.note", "the pipeline's own")
        self.refused(mlflow.delete_registered_model_alias, "one", "champion")
        self.refused(mlflow.rename_registered_model, "one", "other")
        self.refused(mlflow.delete_registered_model, "one")
        self.refused(mlflow.delete_model_version, "one", number)
        assert mlflow.get_model_version_by_alias("one", "champion").version == number

    def test_the_pipeline_may_clear_away_versions_without_alias(self, tracked: Tracked) -> None:
        number = self.registered(tracked, "two")
        tracked.ask(login("pipeline")).delete_model_version("two", number)

    def test_serving_reads_and_no_more(self, tracked: Tracked) -> None:
        number = self.registered(tracked, "three")
        mlflow = tracked.ask(login("serving"))
        version = mlflow.get_model_version("three", number)
        assert mlflow.get_run(version.run_id).info.run_id == version.run_id
        self.refused(mlflow.log_metric, version.run_id, "loss", 1.0)
        self.refused(mlflow.set_registered_model_alias, "three", "champion", number)
        self.refused(mlflow.set_model_version_tag, "three", number, "note", "no")

    def test_a_new_password_in_the_secret_is_a_new_password(self, tracked: Tracked) -> None:
        file = tracked.server.folder / "passwords" / "serving"
        file.write_text("serving-password-2")
        try:
            done = tracked.world.run(container("production", "CronJob", "mlflow-accounts"), tracked.server.folder)
            assert done.returncode == 0, done.stdout + done.stderr
            assert not [one for one in [*PASSWORDS.values(), ADMIN] if one in done.stdout + done.stderr]
            assert status(tracked.server.port, SEARCH, "mlflow", basic(login("serving", "serving-password-2"))) == 200
        finally:
            file.write_text(PASSWORDS["serving"])
            tracked.world.run(container("production", "CronJob", "mlflow-accounts"), tracked.server.folder)
