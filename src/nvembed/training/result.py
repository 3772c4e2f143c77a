"""The finished result in a state folder: `result/`, there only if training is complete."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import output_folder, write_file
from nvembed.core.digests import digest_file

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel

logger = logging.getLogger(__name__)
RESULT = "result"
TRAINABLE = "trainable.safetensors"


def write_result(state: Path, model: NVEmbedModel, facts: Mapping[str, Any]) -> None:
    """Keep the trained tensors and some facts (seconds, precision, ranks), whole or not at all."""
    with output_folder(state / RESULT) as folder:
        model.save_trainable(folder)
        record = {**facts, "digest": digest_file(folder / TRAINABLE)}
        write_file(folder / "result.json", json.dumps(record, indent=2, sort_keys=True) + "\n")


def read_result(state: Path) -> dict[str, Any] | None:
    """The facts of a complete and undamaged result, else None."""
    folder = state / RESULT
    try:
        record: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        if digest_file(folder / TRAINABLE) == record["digest"]:
            return record
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        logger.warning("%s cannot be read (%s)", folder, error)
        return None
    logger.warning("%s was damaged since it was written; the stage is trained anew", folder)
    return None
