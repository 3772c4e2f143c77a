"""Documents, a server that answers by rule, and a section that asks it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chat_server import KEY, MODEL, ChatServer, chat_server
from synthetic_documents import Make, write_documents

from nvembed.recipe import Synthesis


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PLANTED_KEY", KEY)
    return tmp_path / "state"


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "docs")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as state:
        yield state


@pytest.fixture
def section(documents: Path, server: ChatServer) -> Make:
    """A section for the server; keys of sections within are given as mappings."""

    def make(url: str = "", endpoint: dict[str, Any] | None = None, **keys: Any) -> Synthesis:
        quality = {"language": False, "round_trip": {"enabled": False}, **keys.pop("quality", {})}
        asking = {"concurrency": 4, "timeout": 5, "patience": 5, **keys.pop("asking", {})}
        asked = {"base_url": url or server.url, "model": MODEL, "api_key_env": "PLANTED_KEY", **(endpoint or {})}
        tree = {
            "enabled": True,
            "documents": str(documents),
            "alone": True,
            "instruction": "Given a query, retrieve the passages that answer it",
            "license": "cc0-1.0",
            "endpoints": [{"price_in": 1.0, "price_out": 4.0, **asked}],
            "held_out": {"min_queries": 2},
            "quality": quality,
            "asking": asking,
            **keys,
        }
        return Synthesis.model_validate(tree)

    return make
