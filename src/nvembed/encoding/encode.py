"""Encoding with the precision that the model's section asks for, and a cache that outlives a task."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np

from nvembed.core.digests import digest_json
from nvembed.core.state import hold, state_folder
from nvembed.text import check_texts

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel

Precision = Literal["auto", "float32", "bfloat16"]


def encode(
    model: NVEmbedModel,
    texts: Iterable[str],
    *,
    instruction: str = "",
    max_length: int | None = None,
    batch_tokens: int = 16384,
    precision: Precision | None = None,
    label: str = "encoding",
) -> np.ndarray:
    """Vectors of `texts`: float32 (n, dim), rows of norm 1, in the order given; 0 texts give (0, dim).

    Args:
        instruction: the task sentence alone; the model's template is put around it.
        max_length: tokens of a text; None: the model's own.
        batch_tokens: rows × longest row of a batch.
        precision: None: what the model's section asks for (`auto`: bf16 where the processor is faster at it).
        label: what the progress line says.

    Raises UserError for what is not a string, and for an instruction that leaves no room for text.
    """
    return model.encode(
        texts,
        instruction,
        max_length,
        batch_tokens=batch_tokens,
        precision=precision or model.precision,
        label=label,
    )


def encode_cached(
    model: NVEmbedModel,
    texts: Iterable[str],
    *,
    instruction: str = "",
    max_length: int | None = None,
    batch_tokens: int = 16384,
    precision: Precision | None = None,
    label: str = "encoding",
) -> np.ndarray:
    """The same as `encode`, kept in the state by model fingerprint, instruction, length, precision and texts.

    The array may be memory-mapped: read it, do not write to it. A file is written whole or not at all.
    """
    from nvembed.modeling.batching import resolve_precision

    checked = check_texts(texts)
    used = resolve_precision(precision or model.precision, model.device)
    length = model.max_length if max_length is None else max_length
    key = digest_json([model.fingerprint(), model.rule.prefix(instruction), length, used, _texts_digest(checked)])
    folder = state_folder("embeddings", key)
    file = folder / "vectors.npy"
    with hold(folder):
        if not file.is_file():
            vectors = encode(
                model,
                checked,
                instruction=instruction,
                max_length=max_length,
                batch_tokens=batch_tokens,
                precision=used,
                label=label,
            )
            _write(vectors, file)
    return np.load(file, mmap_mode="r" if len(checked) else None)


def _texts_digest(texts: list[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def _write(vectors: np.ndarray, file: os.PathLike[str]) -> None:
    from pathlib import Path

    file = Path(file)
    aside = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with aside.open("wb") as stream:
            np.save(stream, vectors)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
