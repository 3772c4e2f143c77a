"""Which training stages see which sources of a mix: `stages.json` of a dataset folder.

It is a file and no part of the manifest, because it decides what is trained on: the folder's digest has to tell it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from nvembed.core.artifacts import write_file
from nvembed.core.errors import UserError

FILE = "stages.json"
NUMBERS = {"stage1": 1, "stage2": 2}


def write_stages(folder: Path, stages: Mapping[str, Sequence[int]]) -> None:
    """Write what the recipe says of each source into the folder of their examples."""
    write_file(folder / FILE, json.dumps({name: list(stages[name]) for name in sorted(stages)}) + "\n")


def add_stages(folder: Path, name: str, stages: Sequence[int]) -> None:
    """Write one more source into what a folder says."""
    known: dict[str, Sequence[int]] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    write_stages(folder, {**known, name: stages})


def carry_stages(source: Path, target: Path) -> None:
    """Copy what a folder says, if it says anything, to one that is made of it."""
    if (source / FILE).is_file():
        shutil.copyfile(source / FILE, target / FILE)


def unseen_sources(folder: Path, stage: str) -> list[str]:
    """Names of the sources that a stage (`stage1`, `stage2`) does not see; none where the folder holds no mix.

    Raises UserError for a file that cannot be read.
    """
    file, number = folder / FILE, NUMBERS.get(stage)
    if number is None or not file.is_file():
        return []
    try:
        stages = json.loads(file.read_text(encoding="utf-8")).items()
        return sorted(name for name, seen_by in stages if number not in seen_by)
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{file}: does not give each source's stages ({error}); make the folder anew") from error


def rows_of(
    types: tuple[np.ndarray, list[str]],
    sources: tuple[np.ndarray, list[str]],
    task_types: Collection[str],
    without: Collection[str] = (),
) -> np.ndarray:
    """Numbers of the examples of some task types, those of the sources `without` left out: (n,) int32, rising.

    Args:
        types, sources: `Columns.codes` of the two fields.
    """
    wanted = np.isin(types[0], [code for code, name in enumerate(types[1]) if name in task_types])
    if without:
        wanted &= ~np.isin(sources[0], [code for code, name in enumerate(sources[1]) if name in without])
    return np.flatnonzero(wanted).astype(np.int32)
