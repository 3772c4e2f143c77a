"""Checkpoints: safetensors and JSON in one format for every ZeRO stage and number of ranks, whole or not at all.

A checkpoint is a folder `step-NNNNNNNN` with `tensors.safetensors` (`weight/<name>`: the float32 weight of each
trained parameter, `exp_avg/<name>` and `exp_avg_sq/<name>`: its Adam moments) and `state.json` (step, what made it,
digests of the tensors' file and of itself). Frozen weights are not in it: the model section and the backbone's digest
name them. Nor is any random state: every chunk is seeded from (seed, step, rank, chunk).

It is written aside, flushed to the disk and renamed, so a name that exists names a whole checkpoint. A damaged one (a
digest that does not fit) is passed over in favour of the one before it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import output_folder, replace_folder
from nvembed.core.digests import digest_file, digest_json
from nvembed.core.errors import UserError, disk_is_full

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
TENSORS = "tensors.safetensors"
STATE = "state.json"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. `step` steps are done; `seconds` were spent on them; `made_by` says what made it.

    `watched` is what decides about steps to come beside the weights: `bad_steps` and the `best` check so far.
    """

    folder: Path
    step: int
    seconds: float
    made_by: Mapping[str, Any]
    watched: Mapping[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.folder / TENSORS)


def save_checkpoint(
    root: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    step: int,
    seconds: float,
    made_by: Mapping[str, Any],
    keep: int,
    watched: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint under `root` and remove all but the newest `keep` and those that they name as their best.

    Raises UserError if the disk is full; what stood there before is untouched.
    """
    from safetensors.torch import save_file

    folder = checkpoint_folder(root, step)
    aside = root / f".{folder.name}.partial"
    for left in root.glob(".step-*"):  # by a run that was killed; nobody else writes here
        shutil.rmtree(left, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside / TENSORS)
        state = {
            "format": FORMAT,
            "step": step,
            "seconds": seconds,
            "made_by": dict(made_by),
            "watched": dict(watched or {}),
            "digest": digest_file(aside / TENSORS),
        }
        state["own_digest"] = digest_json(state)
        (aside / STATE).write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for path in (aside / TENSORS, aside / STATE, aside):
            flush_to_disk(path)
        replace_folder(aside, folder)
        flush_to_disk(root)
    except Exception as error:
        shutil.rmtree(aside, ignore_errors=True)
        if disk_is_full(error):
            raise UserError(
                f"{root}: the disk is full, checkpoint of step {step} not written (earlier ones are whole); free some"
                " space and start again"
            ) from error
        raise
    kept = _folders(root)[:keep]
    bests = {best_of(root, _watched(one)) for one in kept}
    for old in _folders(root)[keep:]:
        if old not in bests:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def best_of(root: Path, watched: Mapping[str, Any]) -> Path | None:
    """The checkpoint that holds the weights of the best check so far; None where nothing is checked."""
    step = watched.get("best", {}).get("step")
    return checkpoint_folder(root, step) if step else None


def bring_best(checkpoint: Checkpoint, root: Path) -> None:
    """Copy the checkpoint that another one names as its best to `root`, where a run that goes on will look for it.

    Raises UserError if it is missing or damaged.
    """
    source, target = best_of(checkpoint.folder.parent, checkpoint.watched), best_of(root, checkpoint.watched)
    if source is None or target is None or source.resolve() == target.resolve():
        return
    read_checkpoint(source)
    with output_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"step-{step:08d}"


def _watched(folder: Path) -> Mapping[str, Any]:
    try:
        watched: Mapping[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))["watched"]
    except (OSError, ValueError, KeyError, TypeError):  # a damaged one asks for nothing
        return {}
    return watched


def newest_checkpoint(root: Path) -> Checkpoint | None:
    """The newest checkpoint under `root` that is whole, None if there is none."""
    for folder in _folders(root):
        try:
            return read_checkpoint(folder)
        except UserError as error:
            logger.warning("checkpoint passed over: %s", error)
    return None


def read_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint by name. Raises UserError if it is missing or damaged."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        intact = state.pop("own_digest") == digest_json(state) and state["format"] == FORMAT
        whole = digest_file(folder / TENSORS) == state["digest"]
        checkpoint = Checkpoint(folder, state["step"], state["seconds"], state["made_by"], state["watched"])
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no checkpoint here ({error.filename} is missing); name a step-… folder") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: the checkpoint is damaged ({error}); use an earlier one") from error
    if not (intact and whole):
        what = TENSORS if intact else STATE
        raise UserError(f"{folder}: the checkpoint is damaged ({what} is not what was written); use an earlier one")
    return checkpoint


def check_made_by(checkpoint: Checkpoint, made_by: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that something else made.

    Raises UserError that names each difference: a recipe key with both values, or the input whose content differs.
    """
    theirs, ours = dict(_leaves(checkpoint.made_by)), dict(_leaves(made_by))
    differing = [key for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]
    if differing:
        what = "; ".join(f"{key} is {_short(ours.get(key))}, there {_short(theirs.get(key))}" for key in differing[:6])
        raise UserError(f"checkpoint {checkpoint.folder}: made by something else: {what}; resume with what made it")


def remove_checkpoints(root: Path, *, after: int | None = None) -> None:
    """Remove all checkpoints, as their run has ended; or those after step `after`, which training goes back to."""
    if after is None:
        shutil.rmtree(root, ignore_errors=True)
        return
    for folder in _folders(root):
        if folder.name > checkpoint_folder(root, after).name:
            logger.info("%s is removed: training goes on from step %d", folder, after)
            shutil.rmtree(folder, ignore_errors=True)


def flush_to_disk(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folders(root: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(root.glob("step-[0-9]*"), reverse=True)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else text[:16] + "…"
