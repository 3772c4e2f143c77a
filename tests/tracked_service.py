"""MLflow's server in both forms that the manifests run it in: SQLite on a claim, Postgres with an object store."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifest_files import built, named, pod_of
from mlflow_service import Server, World, free_port, postgres, status

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
    """A server, and how to reach it: as who may do all of the registry, and as the pipeline does."""

    overlay: str
    server: Server
    world: World
    restored: World
    user: dict[str, str]
    pipeline: dict[str, str]
    s3: str | None = None

    def ask(self, user: dict[str, str] | None = None) -> Any:
        """A client of the server; `MlflowClient` reads the log-in from the environment when it calls."""
        from mlflow.tracking import MlflowClient

        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            os.environ.pop(name, None)
        os.environ |= self.user if user is None else user
        # by name and by environment: what fetches an artifact asks the latter alone
        os.environ["MLFLOW_TRACKING_URI"] = address = f"http://localhost:{self.server.port}"
        return MlflowClient(tracking_uri=address)


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
    restored = World({**places, "/mlflow/mlflow.db": f"{folder}/restored/mlflow.db"})
    server = Server(container("plain", "Deployment", "mlflow"), world, folder, port)
    server.start()
    yield Tracked("plain", server, world, restored, {}, {})
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
        yield Tracked("production", server, world, restored, login("promoter"), login("pipeline"), s3)
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


SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


def basic(user: dict[str, str]) -> dict[str, str]:

    if not user:
        return {}
    pair = f"{user['MLFLOW_TRACKING_USERNAME']}:{user['MLFLOW_TRACKING_PASSWORD']}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
