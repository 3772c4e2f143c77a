"""What components take: the sections of the tiny recipe, and a state folder of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_harness import environment

from nvembed.recipe import load_recipe, section_json
from nvembed.recipe.schema import SECTIONS
from nvembed.steps.door import check_recipe


@pytest.fixture(scope="session")
def sections() -> dict[str, str]:
    recipe = check_recipe(load_recipe("tiny"))
    return {name: section_json(getattr(recipe, name)) for name in SECTIONS}


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path) -> Iterator[None]:
    with environment(NVEMBED_STATE=str(tmp_path / "state"), OMP_NUM_THREADS="1"):
        yield
