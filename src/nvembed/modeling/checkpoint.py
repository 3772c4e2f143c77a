"""Whole models on disk: one folder that Sentence Transformers, transformers and `NVEmbedModel` load alike.

Tensor names are the published ones in both layouts: `embedding_model.…` and `latent_attention_model.…`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nvembed.core.artifacts import output_folder, write_file
from nvembed.core.errors import UserError
from nvembed.modeling.assemble import Parts
from nvembed.modeling.attention import set_attention
from nvembed.modeling.backbone import check_tokenizer_files, prepare_tokenizer, quiet, refuse_pickled_folder
from nvembed.modeling.export_check import check_equal, check_tensors
from nvembed.modeling.hf_config import NVEmbedConfig
from nvembed.modeling.hf_model import NVEmbedTextModel
from nvembed.modeling.hf_spec import own_config, published_config
from nvembed.modeling.hf_tokenizer import NVEmbedTokenizer, portable, prompt_tail
from nvembed.modeling.lora import merged_state
from nvembed.modeling.sentence_folder import write_sentence_transformers
from nvembed.modeling.source import hub_answers
from nvembed.modeling.stored_shapes import check_stored_shapes
from nvembed.modeling.trainable import make_readable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from nvembed.modeling.model import NVEmbedModel

logger = logging.getLogger(__name__)
SaveLayout = Literal["sentence-transformers", "nv-embed"]


def save_pretrained(
    model: NVEmbedModel,
    folder: Path | str,
    layout: SaveLayout = "sentence-transformers",
    *,
    instructions: Mapping[str, str] | None = None,
    dtype: torch.dtype | str | None = None,
    adapter_only: bool = False,
    max_shard_size: str = "5GB",
    check: bool = True,
) -> Path:
    """Write the model as one folder, whole or not at all.

    Args:
        layout: `sentence-transformers` for any model; `nv-embed` the published one.
        instructions: prompts to store by name for Sentence Transformers, as task sentences.
        dtype: of the stored weights (float32, bfloat16, float16); None: as they are.
        adapter_only: the backbone's adapter in peft's own format and the pooling's block, the base by name and digest
            alone (see `adapter_folder`); otherwise the whole model, adapters merged.
        max_shard_size: of one weights file.
        check: load what was written and compare vectors before it takes its place (see `export_check`). It takes the
            memory of one more model in float32, so it may be left out for models of billions of parameters.

    Raises:
        UserError: the layout cannot hold this model.
        RuntimeError: what was written gives other vectors; nothing is left.
    """
    with output_folder(Path(folder)) as out:
        if adapter_only:
            from nvembed.modeling.adapter_folder import write_adapter_folder

            if layout != "sentence-transformers" or instructions:
                raise UserError("adapter_only: takes neither a layout nor instructions; leave them out")
            write_adapter_folder(model, out, dtype=as_dtype(dtype), check=check)
        else:
            write_model(
                model,
                out,
                layout,
                instructions=instructions,
                dtype=dtype,
                max_shard_size=max_shard_size,
                check=check,
            )
    return Path(folder)


def write_model(
    model: NVEmbedModel,
    out: Path,
    layout: SaveLayout = "sentence-transformers",
    *,
    instructions: Mapping[str, str] | None = None,
    dtype: torch.dtype | str | None = None,
    max_shard_size: str = "5GB",
    check: bool = True,
) -> dict[str, float]:
    """Write the whole model into the empty folder `out`: arguments and errors as `save_pretrained`'s.

    Returns each loader's largest difference from the model's own vectors; empty without `check`.
    """
    if layout not in ("sentence-transformers", "nv-embed"):
        raise UserError(f"layout {layout!r} is unknown; known: sentence-transformers, nv-embed")
    state = model_state(model, as_dtype(dtype))
    stored = str(next(iter(state.values())).dtype).removeprefix("torch.")
    if layout == "nv-embed":
        config: dict[str, Any] = published_config(model.spec, model.backbone.config, stored)
        write_file(out / "config.json", _json(config))
        _plain_tokenizer(model.rule.tokenizer).save_pretrained(out)
    else:
        own_config(model.spec, model.backbone.config, prompt_tail(model.rule), stored).save_pretrained(out)
        portable(model.rule, model.max_length).save_pretrained(out)
        write_sentence_transformers(model, out, instructions or {})
    _write_weights(state, out, max_shard_size)
    if not check:
        return {}
    check_tensors(state, out)
    del state
    return check_equal(model, out, layout)


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype for stored weights by itself or by name. Raises UserError for any but the three that are offered."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and name not in known:
        raise UserError(f"dtype {name!r}: weights are stored as {', '.join(known)}")
    return None if dtype is None else known[name]


def model_state(model: NVEmbedModel, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Every tensor of the model by its published name, adapters merged, in main memory.

    Raises UserError for a model loaded for inference only: it no longer holds them.
    """
    if model.latent is not None and model.latent.inference_only:
        raise UserError("the model was loaded with inference_only=True and cannot be saved; load it without")
    state = {f"embedding_model.{name}": tensor for name, tensor in merged_state(model.backbone).items()}
    if model.latent is not None:
        state |= {f"latent_attention_model.{name}": tensor for name, tensor in merged_state(model.latent).items()}
    if model.self_attention is not None:
        merged = merged_state(model.self_attention)
        state |= {f"self_attention_model.{name}": tensor for name, tensor in merged.items()}
    return {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}


def load_pretrained(
    path: Path | str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = torch.float32,
    options: Mapping[str, Any] | None = None,
) -> tuple[NVEmbedTextModel, PreTrainedTokenizerFast]:
    """The transformers form of a saved model and its tokenizer, from a folder or the hub; `dtype` None: as stored.

    `options` are more of transformers' own, such as `quantized.four_bit_options`.

    Raises UserError for what is no such checkpoint, pickled or damaged weights, and a tensor that is missing,
    unknown or of another shape.
    """
    where = str(path)
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{where}: holds no config.json; give the folder of a saved model")
        refuse_pickled_folder(folder, where)
    elif folder.is_absolute() or where.startswith(".") or where.count("/") > 1:
        raise UserError(f"{where}: no such folder; check the path")
    place = _place(where, revision)
    config = _load_config(where, place)
    try:
        if folder.is_dir():
            check_stored_shapes(folder, config, where)
        with quiet():
            loaded: Any = NVEmbedTextModel.from_pretrained(
                where,
                config=config,
                **place,
                use_safetensors=True,
                dtype=dtype or "auto",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **(options or {}),
            )
    except Exception as error:
        if isinstance(error, UserError) or not _is_damage(error):
            raise
        raise UserError(f"{where}: weights cannot be read ({_first_line(error)}); copy the model anew") from error
    model, info = loaded
    _check_loaded(info, where)
    return model.eval(), load_saved_tokenizer(where, revision)


def load_parts(path: Path | str, *, revision: str | None = None, dtype: torch.dtype | None = torch.float32) -> Parts:
    """What `NVEmbedModel` is made of, from `load_pretrained`; arguments and errors are its own."""
    loaded, tokenizer = load_pretrained(path, revision=revision, dtype=dtype)
    set_attention(loaded.embedding_model, loaded.spec.attention)
    return Parts(
        loaded.embedding_model, tokenizer, loaded.spec, loaded.latent_attention_model, loaded.self_attention_model
    )


def _place(where: str, revision: str | None) -> dict[str, Any]:
    """What transformers needs beside a folder or hub id."""
    if Path(where).is_dir():
        return {}
    return {"revision": revision or "main", "local_files_only": not hub_answers()}


def _load_config(where: str, place: Mapping[str, Any]) -> NVEmbedConfig:
    try:
        values, _ = NVEmbedConfig.get_config_dict(where, **place)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: no model here or on the hub ({_first_line(error)}); check the name") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: config.json holds no object; give the folder of a saved model")
    if values.get("model_type") != "nvembed":
        code = ", with trust_remote_code=True if you trust the code that it asks for" if values.get("auto_map") else ""
        raise UserError(
            f"{where}: holds a {values.get('model_type')!r} model, not 'nvembed'; "
            f"NVEmbedModel.from_card loads other models as their cards say{code}"
        )
    try:
        return NVEmbedConfig.from_dict(values)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(f"{where}: config.json cannot be used ({_first_line(error)[:200]}); copy it anew") from error


def load_saved_tokenizer(where: str, revision: str | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a saved model, end tokens left to the text rule. Raises UserError if it cannot be loaded."""
    from transformers import AutoTokenizer

    place = _place(where, revision)
    if Path(where).is_dir():
        check_tokenizer_files(Path(where), where)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **place)
    except Exception as error:  # tokenizers raises nothing narrower for a file that it cannot read
        raise UserError(f"{where}: tokenizer cannot be loaded ({_first_line(error)}); copy the model anew") from error
    return prepare_tokenizer(_plain_tokenizer(tokenizer))


def _plain_tokenizer(tokenizer: Any) -> PreTrainedTokenizerFast:
    """The published tokenizer, end tokens left to the text rule."""
    if isinstance(tokenizer, NVEmbedTokenizer):
        from transformers import PreTrainedTokenizerFast as Fast

        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        return Fast(tokenizer_object=tokenizer.backend_tokenizer, padding_side="right", **special)
    return tokenizer


def _check_loaded(info: Mapping[str, Any], where: str) -> None:
    for name in sorted(info.get("missing_keys") or []):
        raise UserError(f"{where}: tensor {name} is missing; the checkpoint is not whole")
    for name in sorted(info.get("unexpected_keys") or []):
        raise UserError(f"{where}: tensor {name} is unknown to this configuration; weights and config.json disagree")
    for name, found, expected in sorted(info.get("mismatched_keys") or []):
        shapes = f"{tuple(found)}, not {tuple(expected)}"
        raise UserError(f"{where}: tensor {name} has shape {shapes}; weights and config.json disagree")


def _is_damage(error: Exception) -> bool:
    from safetensors import SafetensorError

    return isinstance(error, SafetensorError | OSError | ValueError)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _write_weights(state: dict[str, Tensor], out: Path, max_shard_size: str) -> None:
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(state, out, max_shard_size=max_shard_size, metadata={"format": "pt"})
    for file in out.glob("*.safetensors"):
        make_readable(file)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
