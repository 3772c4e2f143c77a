"""A file on a server: named by the stamp the server gives its content, read through fsspec like any other."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvembed.core.errors import UserError
from nvembed.data import check_source
from nvembed.data.locations import file_kind, source_digest
from nvembed.recipe import Data

ROWS = "".join(json.dumps({"query": f"q{i}", "positive": f"p{i}"}) + "\n" for i in range(100)).encode()


class Store:
    """One file on an HTTP server, with or without an ETag."""

    def __init__(self) -> None:
        self.content, self.etag, self.downloads = ROWS, "one", 0
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._head()

            def do_GET(self) -> None:
                if self._head():
                    store.downloads += 1
                    self.wfile.write(store.content)

            def _head(self) -> bool:
                there = self.path == "/data.jsonl"
                self.send_response(200 if there else 404)
                self.send_header("Content-Length", str(len(store.content) if there else 0))
                if there and store.etag:
                    self.send_header("ETag", store.etag)
                self.end_headers()
                return there

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/data.jsonl"


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    thread = threading.Thread(target=store.server.serve_forever, daemon=True)
    thread.start()
    yield store
    store.server.shutdown()
    store.server.server_close()
    thread.join()


def test_a_file_on_a_server_is_checked_like_any_other(store: Store) -> None:
    assert check_source(Data(path=store.url)).rows == 100


def test_the_servers_stamp_names_the_content_without_a_download(store: Store) -> None:
    first = source_digest(store.url)
    assert source_digest(store.url) == first
    store.etag = "two"
    assert source_digest(store.url) != first
    assert store.downloads == 0


def test_without_a_stamp_the_bytes_are_digested(store: Store) -> None:
    store.etag = ""
    first = source_digest(store.url)
    assert store.downloads > 0
    store.content = ROWS.replace(b"q7", b"Q7")
    assert source_digest(store.url) != first


def test_a_file_that_the_server_does_not_have(store: Store) -> None:
    with pytest.raises(UserError, match="no such file"):
        check_source(Data(path=store.url.replace("data", "nothing")))


def test_a_server_that_is_not_there(store: Store) -> None:
    with pytest.raises(UserError, match="cannot be re"):
        check_source(Data(path="http://127.0.0.1:9/data.jsonl"))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("s3://bucket/v1.2/data.JSONL.gz", "jsonl"),
        ("hf://datasets/org/name@refs/convert/parquet/default/train/0000.parquet", "parquet"),
        ("gs://bucket/data.tsv", "tsv"),
        ("folder.csv/data.csv.xz", "csv"),
    ],
)
def test_the_name_tells_the_format_wherever_the_file_lies(path: str, kind: str) -> None:
    assert file_kind(path) == kind


def test_a_local_file_is_named_by_its_bytes_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROWS)
    (tmp_path / "b.jsonl").write_bytes(ROWS)
    assert source_digest(str(tmp_path / "a.jsonl")) == source_digest(f"file://{tmp_path}/b.jsonl")
