"""Fixtures of the command line's tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled YAML of `small_pipeline.py`."""
    spec = importlib.util.spec_from_file_location("small_pipeline", Path(__file__).with_name("small_pipeline.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    compiled: Path = module.compile_small(tmp_path_factory.mktemp("compiled") / "small.yaml")
    return compiled
