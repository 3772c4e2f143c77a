"""What travels between stages: every trained tensor by name in one safetensors file; the base by digest only."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from nvembed.core.digests import canonical_json
from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from nvembed.modeling.model import NVEmbedModel

FILE = "trainable.safetensors"
_ORIGIN = "nvembed.origin"


def trainable_file(path: Path | str) -> Path:
    """The file itself: `path`, or `trainable.safetensors` in the folder `path`."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / FILE


def trained_tensors(model: NVEmbedModel) -> dict[str, Tensor]:
    """Every trained tensor by its stable name: `backbone.…` (adapters or all weights) and `latent.…`."""
    return {name: parameter for name, parameter in model.named_parameters() if name in model.trained_names}


def write_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.parent / f".{file.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, aside, dict(metadata))
        make_readable(aside)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def make_readable(file: Path) -> None:
    """The permissions of any new file: safetensors writes for its owner alone, whoever reads the volume later."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)


def save_trainable(model: NVEmbedModel, path: Path | str) -> Path:
    """Write the trained tensors; returns the file."""
    file = trainable_file(path)
    # One key only: safetensors writes several in random order, and equal tensors must give equal bytes.
    write_tensors(trained_tensors(model), file, {_ORIGIN: canonical_json(model.origin)})
    return file


def load_trainable(model: NVEmbedModel, path: Path | str) -> None:
    """Read trained tensors into a model of the same section.

    Raises UserError if the file is missing or damaged, belongs to another backbone, or if a tensor is missing,
    unknown or of another shape (it is named).
    """
    file = trainable_file(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a folder that a training stage wrote")
    found: dict[str, str] = {}
    tensors = read_tensors(file, found)
    metadata = json.loads(found.get(_ORIGIN, "{}"))
    theirs, ours = metadata.get("backbone_digest"), model.origin.get("backbone_digest")
    if theirs and ours and theirs != ours:
        raise UserError(
            f"{file}: trained on backbone {metadata.get('backbone', '?')} ({theirs[:12]}), but this model has "
            f"{model.origin.get('backbone', '?')} ({ours[:12]}); use the recipe that it was trained with"
        )
    copy_tensors(tensors, trained_tensors(model), str(file))


def read_tensors(file: Path, metadata: dict[str, str] | None = None) -> dict[str, Tensor]:
    """Every tensor of a safetensors file; its metadata goes into `metadata`. Raises UserError if it is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stream:
            if metadata is not None:
                metadata |= stream.metadata() or {}
            return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a whole safetensors file ({error}); train or copy it anew") from error


def copy_tensors(tensors: Mapping[str, Tensor], into: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into parameters of the same names and shapes. Raises UserError naming the first misfit."""
    import torch

    for name in sorted(into.keys() - tensors.keys()):
        raise UserError(f"{where}: tensor {name} is missing; it was made with another model section")
    for name in sorted(tensors.keys() - into.keys()):
        raise UserError(f"{where}: tensor {name} is unknown to this model; it was made with another model section")
    for name, tensor in tensors.items():
        if tensor.shape != into[name].shape:
            expected, found = tuple(into[name].shape), tuple(tensor.shape)
            raise UserError(
                f"{where}: tensor {name} has shape {found}, not {expected}; made with another model section"
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            into[name].copy_(tensor)
