"""Small trained models and evaluations with planted scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registry_support import EVALUATION, GATE, Contest, evaluation, train_adapter

from nvembed.core.artifacts import read_manifest
from nvembed.evaluation import compare


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
