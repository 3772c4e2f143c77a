"""What Sentence Transformers reads beside the model itself: its own module list, its pooling, prompts by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import write_file

if TYPE_CHECKING:
    from nvembed.modeling.model import NVEmbedModel

_ST_POOLING = {"latent": "mean", "self-attention": "mean", "mean": "mean", "last": "lasttoken", "cls": "cls"}


def write_sentence_transformers(model: NVEmbedModel, out: Path, instructions: Mapping[str, str]) -> None:
    """Sentence Transformers' own module list: Transformer, Pooling, Normalize.

    Its Pooling takes all tokens; which of them count is the model's own doing (`hf_model`).
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listed = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(modules)
    ]
    write_file(out / "modules.json", _json(listed))
    write_file(out / "sentence_bert_config.json", _json({"max_seq_length": model.max_length, "unpad_inputs": False}))
    pooling = {
        "word_embedding_dimension": model.dim,
        "pooling_mode_cls_token": _ST_POOLING[model.spec.pooling] == "cls",
        "pooling_mode_mean_tokens": _ST_POOLING[model.spec.pooling] == "mean",
        "pooling_mode_lasttoken": _ST_POOLING[model.spec.pooling] == "lasttoken",
        "include_prompt": True,
    }
    write_file(out / "1_Pooling" / "config.json", _json(pooling))
    write_file(out / "2_Normalize" / "config.json", _json({}))
    prompts = {"document": "", **{name: model.rule.prefix(task) for name, task in instructions.items()}}
    settings = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_file(out / "config_sentence_transformers.json", _json(settings))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
