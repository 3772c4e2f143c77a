"""constraints.txt pins what the project asks for, by public versions, and nothing that belongs to one build only."""

from __future__ import annotations

import importlib.metadata as metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==") for line in lines if not line.startswith("#"))
    return {name: Version(version) for name, version in found.items()}


def asked_for() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [needed for needed in map(Requirement, lines) if needed.name != "nvembed"]


@pytest.mark.parametrize("needed", asked_for(), ids=str)
def test_what_the_project_asks_for_is_pinned_within_what_it_allows(needed: Requirement) -> None:
    assert needed.specifier.contains(pins()[canonicalize_name(needed.name)])


def test_pins_are_public_versions() -> None:
    assert [name for name, version in pins().items() if version.local] == []


def test_nothing_is_pinned_that_only_some_builds_of_pytorch_need() -> None:
    assert [name for name in pins() if name.startswith(("nvidia-", "cuda-", "triton", "nvembed"))] == []


def test_this_environment_is_the_pinned_one() -> None:
    installed = {canonicalize_name(d.metadata["Name"]): Version(d.version) for d in metadata.distributions()}
    off = {
        n: (str(v), installed[n].public) for n, v in pins().items() if n in installed and installed[n].public != str(v)
    }
    assert off == {}, "run `make setup`"
