"""Where runs are kept, and what is said when that place cannot be reached."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from nvembed.core.errors import UserError
from nvembed.tracking import check_server, default_uri, shown


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def other_server() -> Iterator[tuple[str, dict[str, int]]]:
    """A web server that is not MLflow; every path answers with the status in `answer`."""
    answer = {"status": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else answer["status"])
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answer
    server.shutdown()
    server.server_close()


def test_the_default_store_is_a_file_in_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_uri(tmp_path / "out") == f"sqlite:///{tmp_path.resolve()}/out/mlflow.db"


def test_a_named_server_wins_over_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert default_uri(tmp_path) == "http://mlflow:5000"


def test_a_store_that_does_not_exist_yet_is_fine_and_is_not_made_by_asking(tmp_path: Path) -> None:
    check_server(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("these are somebody's notes")
    with pytest.raises(UserError, match="no SQLite database"):
        check_server(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write in"):
        check_server(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_a_port_where_nobody_listens_is_named_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached") as caught:
        check_server(f"http://127.0.0.1:{_free_port()}")
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)


def test_a_server_that_accepts_and_stays_silent_is_given_up_in_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(UserError, match="no answer"):
            check_server(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=1)
        assert time.monotonic() - started < 2


def test_a_server_that_is_not_mlflow_is_told_apart(other_server: tuple[str, dict[str, int]]) -> None:
    with pytest.raises(UserError, match="does not answer as an MLflow server"):
        check_server(other_server[0])


@pytest.mark.parametrize(("status", "hint"), [(401, "MLFLOW_TRACKING_USERNAME"), (403, "--allowed-hosts")])
def test_a_refused_login_says_what_to_set(other_server: tuple[str, dict[str, int]], status: int, hint: str) -> None:
    uri, answer = other_server
    answer["status"] = status
    with pytest.raises(UserError, match=hint):
        check_server(uri)


def test_a_password_in_an_address_is_never_printed() -> None:
    for scheme in ("http", "ftp"):
        with pytest.raises(UserError) as caught:
            check_server(f"{scheme}://me:s3cret@127.0.0.1:{_free_port()}/x", timeout=2)
        assert "s3cret" not in str(caught.value) and "127.0.0.1" in str(caught.value)
    assert (
        shown("http://a:b@c@host:5000/p and sqlite:////x/mlflow.db")
        == "http://***@host:5000/p and sqlite:////x/mlflow.db"
    )
    assert shown("http://host/a@b") == "http://host/a@b"


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="give http"):
        check_server("ftp://somewhere")


def test_a_real_mlflow_server_passes(tmp_path: Path) -> None:
    port = _free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        str(tmp_path / "art"),
    ]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
    try:
        deadline, last = time.monotonic() + 90, ""
        while time.monotonic() < deadline and server.poll() is None:
            try:
                check_server(f"http://127.0.0.1:{port}")
                return
            except UserError as error:
                last = str(error)
                time.sleep(0.5)
        pytest.fail(f"{last}\n{(tmp_path / 'log').read_text()[-2000:]}")
    finally:
        import os
        import signal

        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)
