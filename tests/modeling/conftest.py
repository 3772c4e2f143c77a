"""Model sections and models that the room's tests share: small, seeded, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nvembed import NVEmbedModel
from nvembed.recipe import Model, load_recipe


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))


@pytest.fixture(scope="session")
def section() -> Callable[..., Model]:
    """The `tiny` recipe's model section, with changes."""

    def make(**changes: Any) -> Model:
        return Model.model_validate({**load_recipe("tiny").model.model_dump(), **changes})

    return make


@pytest.fixture(scope="session")
def stirred() -> Callable[[NVEmbedModel], NVEmbedModel]:
    """Moves every trained tensor away from its start, as training would."""

    def stir(model: NVEmbedModel) -> NVEmbedModel:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in model.trained_names:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        return model

    return stir
