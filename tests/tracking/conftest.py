"""A real SQLite store for every test; the empty schema is migrated once and copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nvembed.tracking.client import client


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("schema") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
        client().search_experiments()
    return file


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> str:
    """The address of a fresh store; the environment is that of a task of pipeline run `run-00000001`."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    for name in ("MLFLOW_RUN_ID", "KFP_RUN_ID", "NVEMBED_METRICS", "NVEMBED_TRACKING_RUN_ID", "NVEMBED_PARENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("NVEMBED_RUN_ID", "run-00000001")
    return uri
