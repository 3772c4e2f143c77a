"""A trained model without its base: the backbone's adapter as peft writes it, the pooling's block, the base by name.

| file | what |
|---|---|
| `adapter_config.json`, `adapter_model.safetensors` | the adapter: `peft.PeftModel.from_pretrained(base, folder)` |
| `block.safetensors` | the latent block or self-attention layer, if any, by the names of a whole checkpoint |
| `nvembed_adapter.json` | the base by name, revision and digest; pooling, text rule and the like (a `Spec`) |

A few hundred megabytes for a model of 7 B parameters. For another base it is worth nothing, so another is refused.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nvembed.core.artifacts import write_file
from nvembed.core.errors import UserError
from nvembed.modeling.assemble import Parts, is_saved_model
from nvembed.modeling.attention import set_attention
from nvembed.modeling.backbone import load_backbone, load_tokenizer
from nvembed.modeling.checks import hidden_size
from nvembed.modeling.export_check import compare, through_ourselves
from nvembed.modeling.lora import merged_state
from nvembed.modeling.source import Source, find_source, source_digest
from nvembed.modeling.spec import Spec
from nvembed.modeling.trainable import copy_tensors, read_tensors, write_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from nvembed.modeling.model import NVEmbedModel

DESCRIPTION = "nvembed_adapter.json"
_ADAPTER = "adapter_model.safetensors"
_BLOCK = "block.safetensors"
_FORMAT = 1


def is_adapter_folder(path: Path | str) -> bool:
    """Whether a folder holds an adapter and a block without their base."""
    return (Path(path) / DESCRIPTION).is_file()


def write_adapter_folder(model: NVEmbedModel, out: Path, *, dtype: torch.dtype | None, check: bool) -> dict[str, float]:
    """Write adapter and block into the empty folder `out`; returns what `export_check` found, empty without `check`.

    Raises:
        UserError: the model has no adapter, or does not know its base.
        RuntimeError: read back onto its base, the folder gives other vectors.
    """
    base = {key: model.origin.get(key) for key in ("backbone", "revision", "backbone_digest")}
    if not base["backbone"] or not base["backbone_digest"]:
        raise UserError("adapter_only: this model does not know its base; make it by NVEmbedModel.from_section")
    adapters = adapter_tensors(model.backbone)
    if not adapters:
        raise UserError("adapter_only: the backbone has no adapter (it was trained in full, or merged); save it whole")
    if model.latent is not None and model.latent.inference_only:
        raise UserError("the model was loaded with inference_only=True and cannot be saved; load it without")
    source = find_source(str(base["backbone"]), base["revision"])
    prefix = "embedding_model." if is_saved_model(source) else ""
    named = {f"base_model.model.{prefix}{name}": tensor.to("cpu", dtype) for name, tensor in adapters.items()}
    write_tensors(named, out / _ADAPTER, {"format": "pt"})
    layers = sorted({f"{prefix}{name.partition('.lora_')[0]}" for name in adapters})
    _peft_config(model.backbone, base, layers).save_pretrained(out)
    block = {name: tensor.to("cpu", dtype) for name, tensor in block_tensors(model).items()}
    if block:
        write_tensors(block, out / _BLOCK, {"format": "pt"})
    described = {
        "format": _FORMAT,
        "base": base,
        "dtype": str(next(model.backbone.parameters()).dtype).removeprefix("torch."),
        "nvembed": model.spec.to_dict(),
    }
    write_file(out / DESCRIPTION, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    return compare(model, out, {"NVEmbedModel": through_ourselves}) if check else {}


def adapter_tensors(backbone: torch.nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by peft's stored names, without its `base_model.model.`: no adapter's name in them."""
    return {name.replace(".default.", "."): p for name, p in backbone.named_parameters() if ".lora_" in name}


def block_tensors(model: NVEmbedModel | Parts) -> dict[str, Tensor]:
    """The pooling's block by the names of a whole checkpoint, adapters on it merged; empty for poolings without one."""
    blocks = {"latent_attention_model": model.latent, "self_attention_model": model.self_attention}
    return {
        f"{prefix}.{name}": tensor
        for prefix, block in blocks.items()
        if block is not None
        for name, tensor in merged_state(block).items()
    }


def _peft_config(backbone: Any, base: dict[str, str | None], layers: list[str]) -> Any:
    """The adapter's own configuration, naming its base and each adapted layer in full.

    A layer's last name alone (`dense`) would fit more than was adapted, such as a pooler that we leave out.
    """
    config = copy.copy(backbone.peft_config["default"])
    config.base_model_name_or_path = base["backbone"]
    config.revision = base["revision"]
    config.inference_mode = True
    config.target_modules = layers
    return config


def load_adapter_folder(
    path: Path | str, *, base: str | None = None, dtype: torch.dtype | None = None, trust_remote_code: bool = False
) -> tuple[Parts, dict[str, str]]:
    """Base, adapter and block put together, the adapter left unmerged; and where the base comes from.

    Args:
        base: where the base lies now, if no longer where it was; its contents must be the same.
        dtype: None: the one that the base had when the adapter was saved.

    Raises UserError for a folder that cannot be read, and for a base that is not there or is another one.
    """
    folder = Path(path)
    described = _read_description(folder)
    origin = {key: value for key, value in described["base"].items() if value}
    source = find_source(base or origin["backbone"], None if base else origin.get("revision"))
    found = source_digest(source, trust_remote_code=trust_remote_code)
    if found != origin["backbone_digest"]:
        raise UserError(
            f"{folder}: was trained on {origin['backbone']} ({origin['backbone_digest'][:12]}), but {source.name} is "
            f"another model ({found[:12]}); give the base that it was trained on as base="
        )
    dtype = dtype or getattr(torch, described["dtype"])
    backbone, tokenizer, prefix = _load_base(source, dtype, trust_remote_code)
    spec = Spec.from_dict(described["nvembed"], str(folder / DESCRIPTION))
    set_attention(backbone, spec.attention)
    _put_adapter(backbone, folder, prefix)
    dim = hidden_size(backbone.config)
    latent = spec.latent.build(dim).to(dtype) if spec.latent is not None else None
    layer = spec.self_attention.build(dim).to(dtype) if spec.self_attention is not None else None
    parts = Parts(backbone, tokenizer, spec, latent, layer)
    block = block_tensors(parts)
    if block:
        copy_tensors(read_tensors(folder / _BLOCK), block, str(folder / _BLOCK))
    return parts, {**origin, "backbone": source.name}


def _read_description(folder: Path) -> dict[str, Any]:
    file = folder / DESCRIPTION
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        if described["format"] != _FORMAT:
            raise UserError(f"{file}: format {described['format']} was written by a later version")
        known = {"float32", "bfloat16", "float16"}
        if described["dtype"] not in known or not {"backbone", "backbone_digest"} <= described["base"].keys():
            raise ValueError("dtype or base is not as it should be")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); copy the folder anew") from error
    return described


def _load_base(
    source: Source, dtype: torch.dtype, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, str]:
    """The bare backbone, its tokenizer, and what its tensors' names begin with in the model that peft would adapt."""
    if is_saved_model(source, trust_remote_code=trust_remote_code):
        from nvembed.modeling.checkpoint import load_pretrained

        saved, tokenizer = load_pretrained(source.location, revision=source.revision, dtype=dtype)
        return saved.embedding_model, tokenizer, "embedding_model."
    backbone = load_backbone(source, dtype=dtype, trust_remote_code=trust_remote_code)
    return backbone, load_tokenizer(source, trust_remote_code=trust_remote_code), ""


def _put_adapter(backbone: PreTrainedModel, folder: Path, prefix: str) -> None:
    """Put the folder's adapter on the backbone, in place; the caller's random state is left as it was."""
    from peft import LoraConfig, inject_adapter_in_model

    try:
        config = LoraConfig.from_pretrained(str(folder))
        config.target_modules = [layer.removeprefix(prefix) for layer in config.target_modules or ()]
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, backbone)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder}: adapter_config.json does not fit the base ({error}); copy the folder anew"
        ) from error
    stored = read_tensors(folder / _ADAPTER)
    named = {f"base_model.model.{prefix}{name}": tensor for name, tensor in adapter_tensors(backbone).items()}
    copy_tensors(stored, named, str(folder / _ADAPTER))
