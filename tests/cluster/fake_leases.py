"""A local HTTP server that keeps Leases as the Kubernetes API does: versions, conflicts, refused times."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PATH = re.compile(r"/apis/coordination\.k8s\.io/v1/namespaces/nvembed/leases(?:/(?P<name>[a-z0-9-]{1,63}))?$")
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@dataclass
class Leases:
    """The server's state. While `status` is set, every answer is that error."""

    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    status: int = 0
    version: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Status and body for a request."""
        found = _PATH.match(path)
        if self.status or found is None:
            return self.status or 404, {"reason": "Refused", "message": path}
        name = found["name"] or (body or {}).get("metadata", {}).get("name")
        there = self.kept.get(name)
        if method == "GET":
            return (200, there) if there else (404, {"message": "none"})
        spec = body["spec"]
        if not all(_MICRO_TIME.fullmatch(spec[moment]) for moment in ("renewTime", "acquireTime")):
            return 400, {"message": "a time without its six digits"}
        if spec["leaseDurationSeconds"] <= 0:
            return 422, {"message": "leaseDurationSeconds must be greater than 0"}
        if (method == "POST") == (there is not None):
            return (409, {"message": "exists"}) if there else (404, {"message": "none"})
        if there and body["metadata"].get("resourceVersion") != there["metadata"]["resourceVersion"]:
            return 409, {"message": "the object has been modified"}
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.kept[name] = body
        return 200, body


@contextmanager
def serve() -> Iterator[Leases]:
    """Run the server; its state, with the address in `url`."""
    state = Leases()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            with state.lock:
                status, answer = state.answer(self.command, self.path.partition("?")[0], body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _do

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
