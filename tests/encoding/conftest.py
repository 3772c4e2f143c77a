"""The model that the room's tests share: tiny, seeded, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nvembed import NVEmbedModel
from nvembed.recipe import load_recipe


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def model() -> NVEmbedModel:
    return NVEmbedModel.from_section(load_recipe("tiny").model)


@pytest.fixture
def encoded(model: NVEmbedModel) -> Iterator[Callable[[], int]]:
    """How many texts went through the backbone since the last call."""
    rows: list[int] = []
    handle = model.backbone.register_forward_pre_hook(
        lambda _, __, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )

    def count() -> int:
        seen = sum(rows)
        rows.clear()
        return seen

    yield count
    handle.remove()
