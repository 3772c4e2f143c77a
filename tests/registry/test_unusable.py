"""A registry that is down, goes away in the midst, or may only be read: one line, nothing lost, and on again after."""

from __future__ import annotations

import ctypes
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow_server import Door, Server
from registry_support import GATE, MODEL, Contest

from nvembed import registry
from nvembed.cli import main
from nvembed.core.errors import UserError
from nvembed.tracking.client import client, plain_errors

Adapters = Callable[[int], Path]
Hold = Callable[..., Contest]


def _publish(adapter: Path, contest: Contest) -> dict[str, object]:
    return registry.publish(GATE, MODEL, adapter, contest.folder, contest.results, {}, run_id="run-7")


@pytest.mark.slow
def test_what_was_done_is_kept_and_the_rest_is_done_once_the_registry_is_back(
    store: str,
    adapters: Adapters,
    contest: Hold,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    judged, adapter = contest(adapters(1), gain=0.1), adapters(1)
    server = Server(tmp_path)
    server.start()
    server.wait()
    door = Door(server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", door.uri)
    try:
        door.refuses = True
        _refused(adapter, judged, "refuses to be changed by us")
        (exported,) = (tmp_path / "state" / "models").glob("*/*")
        made = (exported / "manifest.json").stat().st_mtime_ns
        for place in ("logged-models", "model-versions/create", "model-versions/set-tag", "registered-models/alias"):
            door.open()
            door.shuts_at = place
            _refused(adapter, judged, "no longer answers")
            door.open()
            present = registry.champion(GATE.name)
            assert present is None
        outcome = _publish(adapter, judged)
        assert outcome["promoted"] and outcome["version"] == "1" and len(registry.list_versions(GATE.name)) == 1
        assert (exported / "manifest.json").stat().st_mtime_ns == made, "it was exported once"
        present = registry.champion(GATE.name)
        assert present is not None and len(present.evaluations) == 1
        client().delete_registered_model_alias(GATE.name, "champion")
        door.refuses = True
        capsys.readouterr()
        assert main(["registry", "promote", GATE.name, "1"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "refuses to be changed by us" in line
        server.kill()
        door.close()
        assert main(["registry", "list"]) == 2
    finally:
        server.kill()


def _refused(adapter: Path, judged: Contest, why: str) -> None:
    with pytest.raises(UserError, match=why) as told:
        _publish(adapter, judged)
    assert f"kept in {adapter}" in str(told.value) and "start again" in str(told.value)


def test_a_registry_that_is_down_is_one_line(
    store: str, adapters: Adapters, contest: Hold, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = contest(adapters(1), gain=0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="no longer answers") as told:
        _publish(adapters(1), judged)
    assert "secret" not in str(told.value)
    assert main(["registry", "list"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be reached" in line and "secret" not in line


def _as_one_without_roots_right_to_write_everywhere() -> None:
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE: lost with the next exec; else no harm


def test_a_store_in_a_folder_that_may_only_be_read_is_one_line(store: str, tmp_path: Path) -> None:
    client().create_registered_model(GATE.name)
    (tmp_path / "mlflow.db").chmod(0o444)
    tmp_path.chmod(0o555)
    command = [
        sys.executable,
        "-m",
        "nvembed.cli",
        "registry",
        "promote",
        GATE.name,
        "1",
        "--output-dir",
        str(tmp_path),
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            preexec_fn=_as_one_without_roots_right_to_write_everywhere,
        )
    finally:
        tmp_path.chmod(0o755)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "cannot write in" in line and "name a writable folder" in line


def test_a_database_that_may_only_be_read_is_one_line(tmp_path: Path) -> None:
    import sqlalchemy

    file = tmp_path / "read.db"
    sqlite3.connect(file).execute("CREATE TABLE t (x)").connection.close()
    engine = sqlalchemy.create_engine(f"sqlite:///file:{file}?mode=ro&uri=true")
    with (
        pytest.raises(UserError, match="it is read-only; mend that and start again"),
        plain_errors(),
        engine.begin() as connection,
    ):
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
    with pytest.raises(ZeroDivisionError), plain_errors():
        _ = 1 / 0
