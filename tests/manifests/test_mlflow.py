"""The plain files' MLflow, started by its own command: who may ask it, and what its backup is good for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from manifest_files import FOLDER, PLAIN, documents, named, pod_of
from mlflow_service import Server, World, free_port, status

OBJECTS = [item for file in PLAIN for item in documents(file)]
API = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"


@pytest.fixture(scope="module")
def claim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The volume of the server's pod."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def mlflow(claim: Path) -> Iterator[int]:
    folder, port = claim, free_port()
    (box,) = named(OBJECTS, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    places = {"/mlflow/": f"{folder}/", "=0.0.0.0": "=127.0.0.1", "=5000": f"={port}", "--workers=2": "--workers=1"}
    server = Server(box, World(places), folder, port)
    server.start()
    yield port
    server.kill()


@pytest.mark.parametrize(
    "host", ["mlflow", "mlflow:5000", "mlflow.nvembed:5000", "mlflow.nvembed.svc.cluster.local:5000", "localhost:5000"]
)
def test_mlflow_answers_to_the_names_of_its_service(mlflow: int, host: str) -> None:
    assert status(mlflow, API, host) == 200


@pytest.mark.parametrize("host", ["mlflow.evil.com", "evil.com", "mlflow.nvembed.evil.com", "10.1.2.3:5000"])
def test_mlflow_refuses_other_names(mlflow: int, host: str) -> None:
    assert status(mlflow, API, host) == 403


def test_the_probes_path_needs_no_name(mlflow: int) -> None:
    assert status(mlflow, "/health", "10.1.2.3:5000") == 200


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "backup").mkdir()
    return tmp_path


def database(file: Path, runs: int) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE runs (id INTEGER)")
        connection.executemany("INSERT INTO runs VALUES (?)", [(number,) for number in range(runs)])
    connection.close()


def count(file: Path) -> int:
    with sqlite3.connect(file) as connection:
        return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])


def backup(volumes: Path, **changes: str) -> tuple[int, str]:
    (box,) = pod_of(named(OBJECTS, "CronJob", "mlflow-backup"))["spec"]["containers"]  # type: ignore[index]
    return job(box, volumes, **changes)


def restore(volumes: Path, **changes: str) -> tuple[int, str]:
    (item,) = documents(FOLDER / "optional" / "restore" / "sqlite.yaml")
    return job(pod_of(item)["spec"]["containers"][0], volumes, **changes)  # type: ignore[index]


def job(box: dict, volumes: Path, **changes: str) -> tuple[int, str]:
    box = {**box, "env": [{**one, "value": changes.get(one["name"], one["value"])} for one in box["env"]]}
    done = World({"/mlflow/": f"{volumes}/mlflow/", "/backup": f"{volumes}/backup"}).run(box, volumes)
    return done.returncode, done.stdout + done.stderr


def test_a_backup_is_whole_while_somebody_writes_and_only_so_many_are_kept(volumes: Path) -> None:
    database(volumes / "mlflow" / "mlflow.db", 3)
    for number in range(3):
        (volumes / "backup" / f"mlflow-20200101T00000{number}Z.db").write_text("old")
    writer = sqlite3.connect(volumes / "mlflow" / "mlflow.db")
    writer.execute("INSERT INTO runs VALUES (99)")  # a transaction that is under way
    code, said = backup(volumes, KEEP="2")
    writer.rollback()
    writer.close()
    assert code == 0, said
    kept = sorted((volumes / "backup").iterdir())
    assert len(kept) == 2 and kept[0].name == "mlflow-20200101T000002Z.db"
    assert count(kept[1]) == 3


def test_no_database_leaves_no_backup(volumes: Path) -> None:
    code, _ = backup(volumes)
    assert code != 0
    assert not list((volumes / "backup").glob("mlflow-*"))


def test_a_restore_brings_the_newest_back_and_keeps_what_was_there(volumes: Path) -> None:
    database(volumes / "backup" / "mlflow-20300101T000000Z.db", 5)
    database(volumes / "backup" / "mlflow-20200101T000000Z.db", 1)
    database(volumes / "mlflow" / "mlflow.db", 9)
    code, said = restore(volumes)
    assert code == 0 and "5 runs" in said, said
    assert count(volumes / "mlflow" / "mlflow.db") == 5
    (before,) = (volumes / "mlflow").glob("mlflow.db.before-*")
    assert count(before) == 9


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0 and then nothing that makes sense" * 100])
def test_a_damaged_backup_changes_nothing(volumes: Path, content: bytes) -> None:
    database(volumes / "mlflow" / "mlflow.db", 9)
    (volumes / "backup" / "mlflow-20300101T000000Z.db").write_bytes(content)
    assert restore(volumes)[0] != 0
    assert count(volumes / "mlflow" / "mlflow.db") == 9


def test_a_backup_that_is_not_there_is_told_with_those_that_are(volumes: Path) -> None:
    database(volumes / "backup" / "mlflow-20300101T000000Z.db", 1)
    code, said = restore(volumes, BACKUP="mlflow-1999.db")
    assert code == 1 and "mlflow-20300101T000000Z.db" in said


@pytest.fixture
def bin_(mlflow: int, volumes: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Runs of the server by what they are: their files went to it by proxy, and all but one are deleted."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"http://localhost:{mlflow}")
    experiment = client.create_experiment(volumes.name)
    runs = {}
    for name in ("alive", "deleted", "evidence"):
        runs[name] = client.create_run(experiment).info.run_id
        client.log_text(runs[name], "scores", "evaluations/scores.txt")
    client.create_registered_model(volumes.name)
    client.create_model_version(volumes.name, f"runs:/{runs['evidence']}/model", runs["evidence"])
    for name in ("deleted", "evidence"):
        client.delete_run(runs[name])
    yield runs
    client.delete_registered_model(volumes.name)


def collected(claim: Path, days: str) -> str:
    (box,) = pod_of(named(OBJECTS, "CronJob", "mlflow-gc"))["spec"]["containers"]  # type: ignore[index]
    done = World({"/mlflow/": f"{claim}/"}).run({**box, "args": [days]}, claim)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_bin_is_emptied_beside_the_running_server_but_for_what_versions_rest_on(
    mlflow: int, claim: Path, bin_: dict[str, str]
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"http://localhost:{mlflow}")

    def files() -> set[str]:
        return {name for name, run in bin_.items() if list(claim.rglob(f"{run}/artifacts/evaluations/*.txt"))}

    assert "removed 0 runs" in collected(claim, "30")
    assert files() == set(bin_), "what was deleted just now stays for a while"
    assert "removed 1 runs" in collected(claim, "0")
    assert files() == {"alive", "evidence"}
    for name in ("alive", "evidence"):
        assert client.get_run(bin_[name]).info.run_id == bin_[name]
    with pytest.raises(MlflowException, match="not found"):
        client.get_run(bin_["deleted"])


@pytest.mark.parametrize(
    ("arguments", "uri", "says"),
    [
        (["-1"], "sqlite:///x.db", "give one number"),
        ([], "sqlite:///x.db", "give one number"),
        (["30"], "http://user:secret@localhost:1", "give the database's own address"),
    ],
)
def test_a_bin_that_cannot_be_emptied_from_here_is_one_line(
    tmp_path: Path, arguments: list[str], uri: str, says: str
) -> None:
    box = {"command": ["python3", "-m", "nvembed.registry.collecting"], "args": arguments}
    done = World({}).run({**box, "env": [{"name": "MLFLOW_TRACKING_URI", "value": uri}]}, tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and says in line and "secret" not in line
