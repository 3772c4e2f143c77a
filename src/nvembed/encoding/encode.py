"""Encoding with the precision that the model's section asks for, and a cache that outlives a task."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from nvembed.core.artifacts import write_file
from nvembed.core.digests import digest_file, digest_json
from nvembed.core.progress import note
from nvembed.core.state import hold, state_folder
from nvembed.modeling.plan import Plan, PlanOptions
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

    checked = check_texts(texts)
    plan = plan_cached(model, **options)
    file = kept_vectors(
        made_by(model, plan, texts_digest(checked)),
        lambda: encode_texts(model, checked, computed=model.precision, **options),
    )
    return np.load(file, mmap_mode="r" if len(checked) else None)


def plan_cached(model: NVEmbedModel, **options: Unpack[Options]) -> Plan:
    """What `encode` does with these options."""
    from nvembed.modeling.plan import make_plan

    names = PlanOptions.__annotations__
    asked: PlanOptions = {name: value for name, value in options.items() if name in names}  # type: ignore[assignment]
    return make_plan(model, computed=model.precision, devices=options.get("devices"), **asked)


def made_by(model: NVEmbedModel, plan: Plan, texts: str) -> dict[str, Any]:
    """All that decides the vectors of texts with this digest."""
    return {"model": model.fingerprint(), **plan.settings(model), "texts": texts}


def kept_vectors(made: dict[str, Any], make: Callable[[], np.ndarray], *, kind: str = "embeddings") -> Path:
    """The state's file of vectors `made` so, under `kind`; `make` is called if there is none.

    Beside it lies a record of what it was made by. A file whose record says otherwise, or that is not what its record
    says, was put there by something else: it is made anew.
    """
    folder = state_folder(kind, digest_json(made))
    file, record = folder / "vectors.npy", folder / "made.json"
    with hold(folder):
        if file.is_file() and _agrees(record, made, file):
            return file
        if file.is_file():
            note(f"{file}: holds vectors of another model or of other texts; they are refused and made anew")
        record.unlink(missing_ok=True)
        write_npy(make(), file)
        write_file(record, json.dumps({**made, "file": digest_file(file)}) + "\n")
    return file


def _agrees(record: Path, made: dict[str, Any], file: Path) -> bool:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(found == {**made, "file": digest_file(file)})


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
