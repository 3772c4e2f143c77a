"""A small server that speaks as much of the Hugging Face hub's protocol as reading public datasets takes.

It serves files given as bytes, and can be told to fail: a gated dataset, a taken-down file, a connection that breaks.
The real clients (`huggingface_hub`, `datasets`, the `hf://` file system) talk to it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Datasets by id: file → bytes. `gated` ids want a token.

    `breaks` says how often a file's download is to break off halfway, `resumed` how often it went on from there.
    """

    datasets: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    breaks: Counter[str] = field(default_factory=Counter)
    resumed: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        api = re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)(?:/(revision|auth-check|commits|tree|paths-info)(?:/(.*))?)?", path
        )
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.*)", path)
        if api and api[1] in self.datasets:
            self._answer_api(request, api[1], api[2] or "revision", api[3] or "main", body)
        elif file and file[1] in self.datasets:
            self._answer_file(request, file[1], file[2], file[3])
        else:
            _json(request, {"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _answer_api(self, request: BaseHTTPRequestHandler, repo: str, what: str, rest: str, body: bytes) -> None:
        files = self.datasets[repo]
        revision = rest.split("/")[0]
        if what == "auth-check":
            _json(request, {}, *(_GATED if repo in self.gated else (200, {})))
        elif what == "commits":
            _json(request, [{"id": COMMIT, "title": "one", "message": "", "authors": [], "date": _DATE}])
        elif revision not in ("main", COMMIT):
            _json(request, {"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        elif what == "revision":
            card = _card(files.get("README.md", b"").decode())
            siblings = [{"rfilename": name} for name in files]
            gated = "auto" if repo in self.gated else False
            info = {"_id": "1", "id": repo, "sha": COMMIT, "private": False, "gated": gated, "disabled": False,
                    "siblings": siblings, "cardData": card, "tags": [], "downloads": 0, "likes": 0}  # fmt: skip
            _json(request, info)
        elif what == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else _form_paths(body)
            _json(request, [_entry(name, files[name]) for name in wanted if name in files])
        else:
            folder = rest.partition("/")[2].strip("/")
            _json(request, _tree(files, folder, recursive="recursive=True" in request.path.replace("true", "True")))

    def _answer_file(self, request: BaseHTTPRequestHandler, repo: str, revision: str, name: str) -> None:
        if repo in self.gated:
            _json(request, {"error": "gated"}, *_GATED)
        elif name not in self.datasets[repo]:
            _json(
                request, {"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            )
        else:
            _bytes(request, self.datasets[repo][name], break_off=self._breaks(request, name))

    def _breaks(self, request: BaseHTTPRequestHandler, name: str) -> bool:
        """Whether this answer ends halfway: of whole downloads alone, which come without a range at first."""
        span = request.headers.get("Range") or ""
        self.resumed[name] += bool(re.fullmatch(r"bytes=[1-9]\d*-", span))
        if request.command != "GET" or span or self.breaks[name] <= 0:
            return False
        self.breaks[name] -= 1
        return True


_DATE = "2026-01-01T00:00:00.000Z"
_GATED = (401, {"X-Error-Code": "GatedRepo"})


def _card(text: str) -> dict[str, Any] | None:
    import yaml

    head = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    return yaml.safe_load(head[1]) if head else None


def _form_paths(body: bytes) -> list[str]:
    from urllib.parse import parse_qs

    return parse_qs(body.decode()).get("paths", [])


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}


def _tree(files: dict[str, bytes], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    inside = {name: data for name, data in files.items() if not folder or name.startswith(f"{folder}/")}
    entries = []
    folders = set()
    for name, data in inside.items():
        rest = name[len(folder) + 1 :] if folder else name
        parents = rest.split("/")[:-1]
        folders |= {"/".join([*([folder] if folder else []), *parents[: n + 1]]) for n in range(len(parents))}
        if recursive or not parents:
            entries.append(_entry(name, data))
    if not recursive:
        folders = {name for name in folders if "/" not in name[len(folder) :].strip("/")}
    return entries + [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders)]


def _etag(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _json(
    request: BaseHTTPRequestHandler, value: Any, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    data = json.dumps(value).encode()
    request.send_response(status)
    for name, text in (headers or {}).items():
        request.send_header(name, text)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data)


def _bytes(request: BaseHTTPRequestHandler, data: bytes, *, break_off: bool) -> None:
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
    start = int(span[1]) if span else 0
    end = min(int(span[2]) if span and span[2] else len(data) - 1, len(data) - 1)
    part = data[start : end + 1]
    request.send_response(206 if span else 200)
    request.send_header("Content-Length", str(len(part)))
    request.send_header("ETag", f'"{_etag(data)}"')
    request.send_header("X-Repo-Commit", COMMIT)
    request.send_header("Accept-Ranges", "bytes")
    if span:
        request.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
    request.end_headers()
    if request.command == "HEAD":
        return
    request.wfile.write(part[: len(part) // 2] if break_off else part)
    if break_off:
        request.wfile.flush()
        request.connection.close()
