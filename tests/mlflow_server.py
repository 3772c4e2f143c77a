"""A real MLflow server on a port and a store of its own, to be killed and started again; a door before one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from nvembed.core.errors import UserError
from nvembed.tracking import check_server


class Server:
    """An MLflow server on a port and a store of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, env=environment, start_new_session=True
            )

    def wait(self) -> None:
        def answers() -> bool:
            try:
                check_server(self.uri)
            except UserError:
                return False
            return True

        wait_until(answers, lambda: (self.folder / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def wait_until(condition: Callable[[], bool], why_not: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, why_not()
        time.sleep(0.02)


class Door:
    """Hands requests on to a server, but refuses those that change something, or shuts in the midst of one.

    Attributes:
        refuses: every request that would write is answered with 403, as MLflow answers one who may only read.
        shuts_at: a request whose path ends so, and every one after it, finds nobody there any more.
    """

    def __init__(self, behind: str) -> None:
        door = self
        self.refuses, self.shuts_at, self._shut = False, "", False

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                body = self._body()
                path = self.path.partition("?")[0]
                door._shut = door._shut or bool(door.shuts_at and path.endswith(door.shuts_at))
                if door._shut:
                    self.connection.close()
                    self.close_connection = True
                    return
                if door.refuses and self.command != "GET" and not path.endswith("/search"):
                    answer = json.dumps({"error_code": "PERMISSION_DENIED", "message": "Permission denied"})
                    self._say(403, answer.encode())
                    return
                got = requests.request(self.command, behind + self.path, data=body, headers=_plain(self.headers))
                self._say(got.status_code, got.content)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""  # `requests` sends an empty file so
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do

            def _say(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def open(self) -> None:
        """Everything goes through from now on."""
        self.refuses, self.shuts_at, self._shut = False, "", False

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _plain(headers: Message) -> dict[str, str]:
    hop = ("host", "connection", "content-length", "transfer-encoding")
    return {name: value for name, value in headers.items() if name.lower() not in hop}
