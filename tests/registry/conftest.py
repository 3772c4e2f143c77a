"""Small trained models, evaluations with planted scores, and a real MLflow store to register them in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registry_support import EVALUATION, GATE, Contest, evaluation, train_adapter

from nvembed.core.artifacts import read_manifest
from nvembed.evaluation import compare
from nvembed.tracking.client import client


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, its schema migrated once for all tests."""
    file = tmp_path_factory.mktemp("schema") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
        client().search_experiments()
    return file


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    for name in ("MLFLOW_RUN_ID", "KFP_RUN_ID", "NVEMBED_TRACKING_RUN_ID", "NVEMBED_PARENT", "NVEMBED_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    return uri


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Adapter folders as training writes them: `adapters(seed)` moved every trained tensor a little, by the seed."""
    root = tmp_path_factory.mktemp("adapters")

    def make(seed: int) -> Path:
        folder = root / str(seed)
        if not folder.exists():
            train_adapter(folder, seed)
        return folder

    return make


@pytest.fixture
def contest(tmp_path: Path) -> Iterator[Callable[..., Contest]]:
    """`contest(adapter, gain, champion=folder)`: judged, better than the untrained backbone by `gain`."""
    number = iter(range(100))

    def hold(adapter: Path, gain: float, champion: Path | None = None) -> Contest:
        root = tmp_path / f"contest-{next(number)}"
        measured = {"adapter": read_manifest(adapter, kind="adapter").content}
        results = [evaluation(root / "base", "base", 0.0), evaluation(root / "stage2", "stage2", gain, measured)]
        compare(EVALUATION, GATE, results, root / "comparison", champion=champion)
        return Contest(root / "comparison", results)

    yield hold
