"""Whether a folder's weights fit its configuration, told before anything is built.

transformers draws at random what does not fit. So a config.json without sizes beside a small model's weights would
build the family's default first, seven billion parameters, and be refused only then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"


def check_stored_shapes(folder: Path, config: PretrainedConfig, where: str) -> None:
    """Compare the shapes in the weight files' headers with those of a model on the meta device.

    A name that only one side has is left to transformers, which knows older names of the same tensors. Weights that
    were quantised before they were stored are passed over, and so are models with code of their own.

    Raises:
        UserError: names the first tensor whose shape is not the configuration's.
        SafetensorError, OSError, ValueError: a file that cannot be read; a configuration that makes no model.
    """
    native = type(config).__module__.startswith(("transformers.", "nvembed."))
    files = _weight_files(folder) if native and not getattr(config, "quantization_config", None) else []
    if not files:
        return
    expected, prefix = _expected(config)
    for name, found in sorted(_stored(files).items()):
        shape = expected.get(name, expected.get(name.removeprefix(prefix)))
        if shape is not None and shape != found:
            raise UserError(f"{where}: tensor {name} has shape {found}, not {shape}; weights and config.json disagree")


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers would read, as far as they are there."""
    if (folder / _INDEX).is_file():
        names = sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        return [folder / name for name in names if (folder / name).is_file()]
    return [folder / _WHOLE] if (folder / _WHOLE).is_file() else []


def _stored(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor, from the headers alone."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return shapes


def _expected(config: PretrainedConfig) -> tuple[dict[str, tuple[int, ...]], str]:
    """Name → shape of every tensor of a configuration's model, and what a model with a head puts before its names."""
    import torch
    from transformers import AutoModel

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = AutoModel.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, f"{model.base_model_prefix}."
