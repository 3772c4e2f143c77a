"""Encoding with the precision that the model's section asks for, and a cache that outlives a task."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from nvembed.core.digests import digest_json
from nvembed.core.state import hold, state_folder
from nvembed.modeling.plan import PlanOptions
from nvembed.text import check_texts

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel


class Options(PlanOptions, total=False):
    """`modeling.plan.PlanOptions`, where `precision` None is what the model's section asks for, and beside them:

    Keys:
        devices: one process each (`["cuda:0", "cuda:1"]`); None: this process, where the model lies.
        label: what the progress line says.
    """

    devices: Sequence[str] | None
    label: str


def encode(model: NVEmbedModel, texts: Iterable[str], **options: Unpack[Options]) -> np.ndarray:
    """Vectors of `texts`: float32 (n, dim), rows of norm 1, in the order given; 0 texts give (0, dim).

    `dimensions` and a stored precision change width and type as `modeling.vectors` says. Raises UserError for what is
    not a string, and for options that cannot be (an instruction that leaves no room for text, for one).
    """
    from nvembed.modeling.encoder import encode_texts

    return encode_texts(model, texts, computed=model.precision, **options)


def encode_cached(model: NVEmbedModel, texts: Iterable[str], **options: Unpack[Options]) -> np.ndarray:
    """The same as `encode`, kept in the state by model fingerprint, what decides the vectors, and texts.

    The array may be memory-mapped: read it, do not write to it. A file is written whole or not at all.
    """
    from nvembed.modeling.encoder import encode_texts
    from nvembed.modeling.plan import make_plan

    checked = check_texts(texts)
    names = PlanOptions.__annotations__
    asked: PlanOptions = {name: value for name, value in options.items() if name in names}  # type: ignore[assignment]
    plan = make_plan(model, computed=model.precision, devices=options.get("devices"), **asked)
    key = digest_json([model.fingerprint(), plan.settings(model), texts_digest(checked)])
    folder = state_folder("embeddings", key)
    file = folder / "vectors.npy"
    with hold(folder):
        if not file.is_file():
            write_npy(encode_texts(model, checked, computed=model.precision, **options), file)
    return np.load(file, mmap_mode="r" if len(checked) else None)


def texts_digest(texts: Iterable[str]) -> str:
    """SHA-256 over the lengths and bytes of texts, so that neither their order nor their bounds can be confused."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def write_npy(vectors: np.ndarray, file: Path) -> None:
    """Write an array whole or not at all."""
    aside = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with aside.open("wb") as stream:
            np.save(stream, vectors)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
