"""What components take: the sections of the tiny recipe, and a state folder of the test's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_harness import environment

from nvembed.core.progress import TASK
from nvembed.data.pydocs import read_python_docs
from nvembed.recipe import load_recipe, section_json
from nvembed.recipe.schema import SECTIONS
from nvembed.steps.door import check_recipe


@pytest.fixture(scope="session")
def sections() -> dict[str, str]:
    recipe = check_recipe(load_recipe("tiny"))
    return {name: section_json(getattr(recipe, name)) for name in SECTIONS}


@pytest.fixture(scope="session")
def parsed_docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python documentation, parsed once for all tests: a state's folder."""
    state = tmp_path_factory.mktemp("parsed")
    with environment(**{"NVEMBED_STATE": str(state), TASK: "a test's"}):
        read_python_docs.__wrapped__()
    return state / "parsed"


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, parsed_docs: Path) -> Iterator[None]:
    shutil.copytree(parsed_docs, tmp_path / "state" / "parsed")
    with environment(NVEMBED_STATE=str(tmp_path / "state"), OMP_NUM_THREADS="1"):
        yield
