"""A training job as a file: plain JSON, so that the worker needs no more than torch and the models' libraries.

Beside it lies `error.json`, where ranks leave what the user has to mend. Its place on the disk is taken before they
start: a full disk is one of the things they have to tell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nvembed.core.artifacts import write_file

ERROR = "error.json"
_ERROR_BYTES = 4096


@dataclass(frozen=True)
class Job:
    """What the ranks are told.

    Attributes:
        name: `stage1`, `stage2`: labels progress.
        stage, model: the recipe's sections as JSON trees.
        dataset: folder of training examples.
        init: adapter folder to start from, or None.
        state: folder for checkpoints, metrics and the result.
        resume: a checkpoint asked for by name, or None for the newest one in `state`.
        made_by: what the result depends on: sections and digests; checkpoints carry it.
        device: `cpu` or `cuda`.
        threads: CPU threads of a rank.
        eval_sets: folder with the dev set for checks, or None.
        without: sources of the dataset whose examples the stage does not see.
        peak_tflops: what a device can do, or None to measure it.
    """

    name: str
    stage: Mapping[str, Any]
    model: Mapping[str, Any]
    dataset: str
    init: str | None
    state: str
    resume: str | None
    made_by: Mapping[str, Any]
    device: str
    threads: int
    eval_sets: str | None = None
    without: Sequence[str] = ()
    peak_tflops: float | None = None

    def write(self, path: Path) -> None:
        """Write the job whole or not at all."""
        write_file(path, json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def section(tree: Mapping[str, Any]) -> Any:
    """A section's JSON tree with its keys as attributes, as the typed section has them."""
    return SimpleNamespace(**{k: section(v) if isinstance(v, Mapping) else v for k, v in tree.items()})


def reserve_error(state: Path) -> None:
    """Make room for an error in a state folder; an older one is forgotten."""
    with (state / ERROR).open("wb") as stream:
        stream.write(b" " * _ERROR_BYTES)
        stream.flush()
        os.fsync(stream.fileno())  # only now do some file systems take the space


def write_error(state: Path, error: Exception) -> None:
    """Leave an error's message in the room made for it."""
    text = json.dumps({"error": str(error)[: _ERROR_BYTES // 8]}).encode()
    with (state / ERROR).open("r+b") as stream:
        stream.write(text.ljust(_ERROR_BYTES))


def read_error(state: Path) -> str | None:
    """The message that a rank left, if any did."""
    text = (state / ERROR).read_text(encoding="utf-8").strip()
    return json.loads(text)["error"] if text else None
