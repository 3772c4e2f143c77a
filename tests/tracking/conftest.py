"""The environment of a task of pipeline run `run-00000001`."""

from __future__ import annotations

import pytest


@pytest.fixture
def store(store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NVEMBED_RUN_ID", "run-00000001")
    return store
