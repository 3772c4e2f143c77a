"""A local HTTP server that behaves as the Kubernetes API does for the few kinds that this project deals with.

Kept as the real one keeps them: resource versions that grow, conflicts (409) on a stale version or a wrong uid, watches
that end, deletion in the foreground that waits for dependents, labels and field selectors, logs that follow. What goes
wrong on demand (`faults`): 429 with Retry-After, 5xx, a connection dropped before or after the request took effect, an
answer cut in the middle, 410 to a watch.
"""

import json
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cluster.fake_routes import Refusal, Route, Tree
from cluster.fake_store import Api


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: Api

    def _serve(self) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query, keep_blank_values=True)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.api.requests.append(f"{self.command} {self.path}")
        fault = self.api.faults(self.command, address.path, query)
        if fault == "drop":
            self._cut()
            return
        if fault and fault.isdigit() and fault != "410":
            headers = {"Retry-After": "0"} if fault == "429" else {}
            self._send(int(fault), Refusal(int(fault), "TooManyRequests", f"fault {fault}").body, headers)
            return
        try:
            self._route(address.path, query, body, fault)
        except Refusal as refusal:
            self._send(refusal.code, refusal.body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _route(self, path: str, query: dict[str, list[str]], body: Any, fault: str | None) -> None:
        if path.endswith("/selfsubjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
            self._send(201, {**body, "status": {"allowed": self.api.allowed(asked["verb"], resource)}})
            return
        if path.rstrip("/") == "/version":
            self._send(200, {"gitVersion": self.api.git_version})
            return
        if path.rstrip("/") == "/apis":
            self._send(200, self.api.groups())
            return
        route = Route.of(path, query)
        if not route.known or route.plural in self.api.absent:
            self._send_text(404, "404 page not found\n")
        elif route.log:
            self._log(route, fault)
        elif route.one("watch").lower() == "true":
            self._watch(route, fault)
        else:
            status, answer = self.api.answer(self.command, route, body)
            if fault == "drop-after":
                self._cut()
            else:
                self._send(status, answer, cut=fault == "cut")

    def _watch(self, route: Route, fault: str | None) -> None:
        api = self.api
        api.check_right("watch", route)
        since = int(route.one("resourceVersion", "0") or 0)
        deadline = time.monotonic() + float(route.one("timeoutSeconds", "60"))
        self._start_stream("application/json")
        if fault == "410" or since < api.forgotten:
            gone = Refusal(410, "Expired", f"too old resource version: {since} ({api.version})").body
            self._chunk(json.dumps({"type": "ERROR", "object": gone}) + "\n")
            self._chunk("")
            return
        while time.monotonic() < deadline:
            with api.changed:
                news = [one for one in api.history if one[0] > since and one[1] == route.plural]
                if not news:
                    api.changed.wait(min(0.5, max(0.0, deadline - time.monotonic())))
            for version, _, kind, tree in news:
                since = version
                if route.selects(tree):
                    self._chunk(json.dumps({"type": kind, "object": tree}) + "\n")
                    if fault == "cut":
                        self._cut()
                        return
        self._chunk("")

    def _log(self, route: Route, fault: str | None) -> None:
        api, key = self.api, (route.namespace, route.name)
        api.check_right("get", route)
        pod = api.find("pods", route.name, route.namespace)
        if pod is None:
            raise Refusal(404, "NotFound", f'pods "{route.name}" not found', route.name)
        if key not in api.logs:
            raise Refusal(400, "BadRequest", f'container "node" in pod "{route.name}" is waiting to start')
        start = 0
        if seconds := route.one("sinceSeconds"):
            start = time.time_ns() - int(seconds) * 10**9
        shown = [line for line in api.logs[key].lines if line[0] >= start]
        if tail := route.one("tailLines"):
            shown = shown[-int(tail) :]
        sent, log = 0, api.logs[key]
        first = log.lines.index(shown[0]) if shown else len(log.lines)
        self._start_stream("text/plain")
        while True:
            with api.changed:
                lines = log.lines[first + sent :]
                ended = log.ended or not route.one("follow")
                if not lines and not ended:
                    api.changed.wait(0.5)
            for moment, text in lines:
                whole, rest = divmod(moment, 10**9)
                stamp = f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}".rstrip("0") + "Z"
                self._chunk(f"{stamp} {text}\n" if route.one("timestamps") else f"{text}\n")
                sent += 1
                if fault == "cut":
                    self._cut()
                    return
            if ended and not log.lines[first + sent :]:
                self._chunk("")
                return

    def _start_stream(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _cut(self) -> None:
        """The connection is gone without a word."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def _send(self, status: int, tree: Tree, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        self._send_text(status, json.dumps(tree), "application/json", headers, cut=cut)

    def _send_text(
        self,
        status: int,
        text: str,
        kind: str = "text/plain",
        headers: dict[str, str] | None = None,
        *,
        cut: bool = False,
    ) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            self._cut()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """A client that hung up is no news."""


class serve:
    """Context manager: the server on a free port of this machine."""

    def __init__(self, api: Api | None = None) -> None:
        self.api = api or Api()

    def __enter__(self) -> Api:
        handler = type("Handler", (_Handler,), {"api": self.api})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.api.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self.api

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
