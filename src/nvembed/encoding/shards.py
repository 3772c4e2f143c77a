"""A folder of vectors in numbered parts: how a part is written, how it is known to be finished, how all are read.

`part-00000.parquet` (columns `id` and `text` if kept, and `vector`) or `part-00000.npy` (memory-mapped on reading);
beside each a `part-00000.json` that says what it was made from, written after it, so that a part counts only if its
record is there. `settings.json` says how all of them were made. `manifest.json` comes last: a folder without one is not
finished.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nvembed.core.artifacts import MANIFEST, read_manifest, write_file
from nvembed.core.errors import UserError
from nvembed.encoding.encode import texts_digest, write_npy
from nvembed.encoding.parts import Parts

Format = Literal["parquet", "npy"]
SETTINGS = "settings.json"
KIND = "vectors"


@dataclass(frozen=True)
class Shard:
    """Texts whose vectors make one part; `ids` as long as `texts`, or empty."""

    number: int
    ids: list[str]
    texts: list[str]

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}"

    @cached_property
    def digest(self) -> str:
        """Of ids and texts."""
        return texts_digest(chain(self.ids, self.texts))


@dataclass(frozen=True)
class Record:
    """What a finished part was made from: rows, digest of ids and texts, size of its file in bytes."""

    rows: int
    texts: str
    bytes: int


def is_finished(folder: Path, shard: Shard, form: Format) -> bool:
    """Whether the part is there and was made from these very texts."""
    try:
        found = Record(**json.loads((folder / f"{shard.name}.json").read_text(encoding="utf-8")))
        size = (folder / f"{shard.name}.{form}").stat().st_size
    except (OSError, TypeError, ValueError):
        return False
    return found == Record(len(shard.texts), shard.digest, size)


def write_shard(folder: Path, shard: Shard, vectors: np.ndarray, form: Format, *, keep_texts: bool) -> None:
    """Write a part whole, then its record. Raises UserError where the disk takes no more."""
    file, record = folder / f"{shard.name}.{form}", folder / f"{shard.name}.json"
    try:
        record.unlink(missing_ok=True)  # before the part changes: an old record must not vouch for it
        if form == "npy":
            write_npy(vectors, file)
        else:
            columns = {"id": shard.ids} if shard.ids else {}
            write_parquet(vectors, file, columns | ({"text": shard.texts} if keep_texts else {}))
        content = Record(len(shard.texts), shard.digest, file.stat().st_size)
        write_file(record, json.dumps(asdict(content)) + "\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error})") from error


def parts_from(folder: Path, number: int) -> list[Path]:
    """Files of parts numbered `number` and above, records before what they vouch for."""
    beyond = [path for path in folder.glob("part-*.*") if int(path.stem.removeprefix("part-")) >= number]
    return sorted(beyond, key=lambda path: path.suffix != ".json")


def write_parquet(vectors: np.ndarray, file: Path, columns: dict[str, list[str]]) -> None:
    """Write string columns and `vector`, a list of fixed size, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    vector = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = pa.table({**{name: pa.array(values, pa.string()) for name, values in columns.items()}, "vector": vector})
    aside = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with aside.open("wb") as stream:
            pq.write_table(table, stream, use_dictionary=False, compression="zstd", compression_level=1)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


class Vectors(Parts):
    """All vectors of a finished folder, read as they are asked for.

    Attributes:
        shape, dtype: as of one array (`modeling.vectors` says what int8 and uint8 hold).
        settings: how they were made.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], rows: Sequence[int], columns: int, dtype: str) -> None:
        self.settings = settings
        files = [folder / f"part-{number:05d}.{settings['format']}" for number in range(len(rows))]
        super().__init__(files, rows, columns, dtype)


def read_vectors(folder: Path | str) -> Vectors:
    """The vectors that `encode_stream` or `nvembed embed` wrote into a folder, in the order of the texts.

    Raises UserError for a folder that is not finished, and for one of another kind.
    """
    folder = Path(folder)
    if (folder / SETTINGS).is_file() and not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: is not finished; run what was writing it again, it goes on where it stopped")
    manifest = read_manifest(folder, kind=KIND)
    extra = manifest.extra
    return Vectors(folder, dict(manifest.section), extra["rows"], extra["columns"], extra["dtype"])
