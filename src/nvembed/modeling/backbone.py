"""Backbones by transformers' Auto classes: weights and tokenizer of a `Source`, ready for text embedding."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nvembed.core.artifacts import output_folder
from nvembed.core.errors import UserError
from nvembed.core.state import hold, state_folder
from nvembed.modeling.quantized import four_bit_options
from nvembed.modeling.random_backbone import byte_tokenizer, random_model
from nvembed.modeling.source import Source, explained, load_config, source_digest
from nvembed.modeling.stored_shapes import check_stored_shapes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


def load_backbone(
    source: Source,
    *,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
    quantization: Literal["none", "nf4"] = "none",
) -> PreTrainedModel:
    """The backbone without a head, in eval mode. safetensors only (or a GGUF file). In 4 bits by `nf4`.

    Raises UserError if it cannot be loaded, or holds pickled weights only.
    """
    if source.kind == "random":
        model = random_model(source.location)
        if quantization == "none":
            return model.to(device=device, dtype=dtype).eval()  # type: ignore[call-arg]
        with tempfile.TemporaryDirectory() as folder, quiet():  # what is loaded can be quantised, what is there cannot
            write_backbone(model, Path(folder))
            stored = Source("folder", source.name, folder)
            return load_backbone(stored, dtype=dtype, device=device, quantization=quantization)
    refuse_pickles(source)
    source = converted(source)
    from transformers import AutoModel

    check_fit(source, trust_remote_code=trust_remote_code)
    with explained(source), quiet():
        model, info = AutoModel.from_pretrained(
            source.location,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **source.load_arguments(),
            **(four_bit_options(dtype, device) if quantization == "nf4" else {}),
        )
    check_whole(info, f"model.backbone {source.name!r}")
    drop_pooler(model)
    return model.eval() if quantization == "nf4" else model.to(device).eval()


def check_fit(source: Source, *, trust_remote_code: bool = False) -> None:
    """Raises UserError if the weights in a folder have other shapes than its configuration says; none is read."""
    if source.kind == "folder" and not source.gguf:
        with explained(source):
            config = load_config(source, trust_remote_code=trust_remote_code)
            check_stored_shapes(Path(source.location), config, f"model.backbone {source.name!r}")


def check_whole(info: Mapping[str, Any], where: str) -> None:
    """Raises UserError for a tensor that transformers has drawn at random, since the checkpoint has none that fits.

    A head is unexpected and left out, a pooler may be missing: neither is used.
    """
    for name, found, expected in sorted(info.get("mismatched_keys") or []):
        shapes = f"{tuple(found)}, not {tuple(expected)}"
        raise UserError(f"{where}: tensor {name} has shape {shapes}; weights and config.json disagree")
    for name in sorted(info.get("missing_keys") or []):
        if not name.startswith("pooler."):
            raise UserError(f"{where}: tensor {name} is missing; the checkpoint is not whole")


def load_tokenizer(source: Source, *, trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """The backbone's tokenizer, padding on the right, with a pad token. Raises UserError if it cannot be loaded."""
    if source.kind == "random":
        return byte_tokenizer()
    source = converted(source)
    if source.kind == "folder":
        check_tokenizer_files(Path(source.location), f"model.backbone {source.name!r}")
    from transformers import AutoTokenizer

    with explained(source):
        tokenizer = AutoTokenizer.from_pretrained(
            source.location, trust_remote_code=trust_remote_code, **source.load_arguments()
        )
    return prepare_tokenizer(tokenizer)  # type: ignore[arg-type]


def check_tokenizer_files(folder: Path, where: str) -> None:
    """Raises UserError for a folder without a tokenizer's vocabulary, for which transformers makes up an empty one."""
    known = ("tokenizer.json", "*.model", "vocab.txt", "vocab.json")
    if not any(any(folder.glob(name)) for name in known):
        raise UserError(f"{where}: {folder} holds no tokenizer (tokenizer.json or the like); copy it there too")


def prepare_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Right padding, and a pad token where there is none (the end token: it is masked wherever it pads)."""
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers while a few tensors load: a task's output is a log."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def drop_pooler(model: PreTrainedModel) -> None:
    """Remove BERT's own pooler: its output is not used, and untrained parameters without gradients trip trainers."""
    if getattr(model, "pooler", None) is not None:
        setattr(model, "pooler", None)  # noqa: B010 - BERT's forward allows for it


def refuse_pickles(source: Source) -> None:
    """Raises UserError for a local folder whose weights are pickles only: loading one runs code."""
    if source.kind != "folder" or source.gguf:
        return
    refuse_pickled_folder(Path(source.location), f"model.backbone {source.name!r}")


def refuse_pickled_folder(folder: Path, where: str) -> None:
    """Raises UserError if a folder has pickled weights and no safetensors, or no weights at all."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(
        path.name for suffix in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl") for path in folder.glob(suffix)
    )
    if pickled:
        raise UserError(f"{where}: {pickled[0]} is a pickle, which can run code; convert it to safetensors first")
    raise UserError(f"{where}: {folder} holds no model.safetensors; give a checkpoint's folder")


def converted(source: Source) -> Source:
    """A GGUF file as a safetensors folder, converted once and kept in the state: dequantising takes many seconds."""
    if not source.gguf:
        return source
    state = state_folder("backbones", source_digest(source))
    folder = state / "model"
    with hold(state):
        if not (folder / "model.safetensors").is_file():
            logger.info("%s: converting %s to safetensors, once", source.name, source.gguf)
            _convert(source, folder)
    return Source("folder", source.name, str(folder))


def _convert(source: Source, folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    with explained(source), quiet(), output_folder(folder) as out:
        model = AutoModel.from_pretrained(source.location, gguf_file=source.gguf, dtype=torch.float32)
        # transformers calls what it has dequantised quantised still, and would not save it
        model.config.quantization_config = None
        model.config.dtype = torch.float32
        write_backbone(model, out)
        AutoTokenizer.from_pretrained(source.location, gguf_file=source.gguf).save_pretrained(out)


def write_backbone(model: PreTrainedModel, out: Path) -> None:
    """Configuration and weights, by whichever rank calls: transformers' own way writes on the first alone."""
    from huggingface_hub import save_torch_state_dict

    model.config.save_pretrained(out)
    save_torch_state_dict(model.state_dict(), out, metadata={"format": "pt"})
