"""Fixtures of the submission's tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from cluster.fake_k8s import serve
from cluster.jobs import Deed, furnish


@pytest.fixture
def kubeflow():
    """A server of its own for each test; its state and address."""
    name = "fake_kfp"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("fake_kfp.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    with sys.modules[name].serve() as state:
        yield state


@pytest.fixture
def api():
    with serve() as served:
        furnish(served)
        yield served


@pytest.fixture
def deed(tmp_path):
    return Deed(tmp_path)
