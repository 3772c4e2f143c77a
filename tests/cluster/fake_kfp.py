"""A local HTTP server that speaks Kubeflow Pipelines' v2beta1 API as far as submitting and following a run needs."""

from __future__ import annotations

import json
import threading
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PREFIX = "/apis/v2beta1"


@dataclass
class Kubeflow:
    """The server's state. A run goes through `states`, one step a look, and stays at the last."""

    states: list[str] = field(default_factory=lambda: ["PENDING", "RUNNING", "SUCCEEDED"])
    token: str | None = None
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    terminated: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    fail_next_looks: int = 0
    version: str = "2.17.0"
    multi_user: bool = False
    url: str = ""

    def submitted(self) -> dict[str, Any]:
        """The only run that was created, as it was uploaded."""
        (run,) = self.runs.values()
        return run

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, dict[str, Any]]:
        """Status and body for a request under `/apis/v2beta1`."""
        if (method, path) == ("GET", "/healthz"):
            return 200, {"commit_sha": "0" * 40, "tag_name": self.version, "multi_user": self.multi_user}
        if (method, path) == ("GET", "/experiments"):
            wanted = json.loads(query["filter"][0])["predicates"][0]["stringValue"] if "filter" in query else None
            found = [one for one in self.experiments.values() if wanted in (None, one["display_name"])]
            return 200, {"experiments": found, "total_size": len(found)} if found else {}
        if (method, path) == ("POST", "/experiments"):
            made = {**body, "experiment_id": str(uuid.uuid4())}
            self.experiments[made["experiment_id"]] = made
            return 200, made
        if (method, path) == ("POST", "/runs"):
            return self._create_run(body)
        if (method, path) == ("GET", "/runs"):
            return 200, {"runs": [self._run(run_id, "RUNNING") for run_id in reversed(self.runs)]}
        if (method, path) == ("POST", "/recurringruns"):
            made = {**body, "recurring_run_id": str(uuid.uuid4())}
            self.recurring[made["recurring_run_id"]] = made
            return 200, made
        if method == "POST" and path.endswith(":terminate"):
            self.terminated.append(path.removeprefix("/runs/").removesuffix(":terminate"))
            return 200, {}
        if method == "GET" and path.startswith("/runs/"):
            return self._look(path.removeprefix("/runs/"))
        return 404, {"message": f"no {method} {path}"}

    def _create_run(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["experiment_id"] not in self.experiments:
            return 400, {"message": "no such experiment"}
        run_id = str(uuid.uuid4())
        self.runs[run_id] = body
        return 200, self._run(run_id, "PENDING")

    def _look(self, run_id: str) -> tuple[int, dict[str, Any]]:
        if self.fail_next_looks:
            self.fail_next_looks -= 1
            return 503, {"message": "try again"}
        count = self.looks[run_id] = self.looks.get(run_id, 0) + 1
        state = self.states[min(count, len(self.states)) - 1]
        answer = self._run(run_id, state)
        last = state if state in ("FAILED", "SUCCEEDED") else "RUNNING"
        answer["run_details"] = {
            "task_details": [
                {"task_id": "0", "display_name": "root", "state": state},
                {"task_id": "1", "display_name": "train-2-driver", "state": "SUCCEEDED"},
                {
                    "task_id": "2",
                    "display_name": "train-2",
                    "state": last,
                    "start_time": "2026-01-01T00:02:00Z",
                    "child_tasks": [{"pod_name": "train-2-pod"}],
                },
                {
                    "task_id": "3",
                    "display_name": "prepare-data",
                    "state": "SUCCEEDED",
                    "start_time": "2026-01-01T00:01:00Z",
                    "pod_name": "prepare-pod",
                },
            ]
        }
        return 200, answer

    def _run(self, run_id: str, state: str) -> dict[str, Any]:
        name = self.runs[run_id]["display_name"]
        return {"run_id": run_id, "display_name": name, "state": state, "created_at": "2026-01-01T00:00:00Z"}


class _Handler(BaseHTTPRequestHandler):
    kubeflow: Kubeflow

    def _serve(self) -> None:
        address = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.kubeflow.requests.append(f"{self.command} {address.path}")
        wanted = self.kubeflow.token
        if wanted is not None and self.headers.get("Authorization") != f"Bearer {wanted}":
            status, answer = 401, {"message": "who are you"}
        elif address.path.startswith("/apis/v1alpha1/runs/"):
            self._log(address.path.split("/")[6])
            return
        elif not address.path.startswith(PREFIX):
            status, answer = 404, {"message": "not here"}
        else:
            path = address.path.removeprefix(PREFIX)
            status, answer = self.kubeflow.answer(self.command, path, parse_qs(address.query), body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _log(self, pod: str) -> None:
        text = self.kubeflow.logs.get(pod)
        self.send_response(200 if text is not None else 500)
        self.end_headers()
        self.wfile.write((text or '{"error_message": "no such pod"}').encode())

    do_GET = do_POST = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


class serve:
    """Context manager: the server on a free port of this machine."""

    def __init__(self, kubeflow: Kubeflow | None = None) -> None:
        self.kubeflow = kubeflow or Kubeflow()

    def __enter__(self) -> Kubeflow:
        handler = type("Handler", (_Handler,), {"kubeflow": self.kubeflow})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.kubeflow.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self.kubeflow

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
