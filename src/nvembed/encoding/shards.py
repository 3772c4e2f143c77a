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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nvembed.core.artifacts import MANIFEST, read_manifest, write_file
from nvembed.core.errors import UserError
from nvembed.encoding.encode import texts_digest, write_npy

if TYPE_CHECKING:
    import pyarrow as pa

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


class Vectors:
    """All vectors of a finished folder, read as they are asked for: `npy` parts are memory-mapped, never read whole.

    `vectors[5]`, `vectors[10:20]` and `vectors[[3, 1, 2]]` give rows, `vectors.parts()` goes through them in order,
    `np.asarray(vectors)` reads all into memory.

    Attributes:
        shape, dtype: as of one array (`modeling.vectors` says what int8 and uint8 hold).
        settings: how they were made.
        files: the parts, in order.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], rows: Sequence[int], columns: int, dtype: str) -> None:
        self.settings, self.dtype = settings, np.dtype(dtype)
        self.files = [folder / f"part-{number:05d}.{settings['format']}" for number in range(len(rows))]
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(rows, dtype=np.int64))])
        self.shape = (int(self._starts[-1]), columns)
        self._part = lru_cache(maxsize=None if settings["format"] == "npy" else 2)(self._open)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            return self._rows(np.arange(*index.indices(len(self))))
        rows = np.asarray(index)
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"row {index} of {len(self)} vectors")
        found = self._rows(np.atleast_1d(rows).astype(np.int64) % max(1, len(self)))
        return found if rows.ndim else found[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.concatenate([np.empty((0, self.shape[1]), self.dtype), *(array for _, array in self.parts())])
        return whole if dtype is None else whole.astype(dtype)

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """(number of its first row, array) of each part, in order."""
        for number, start in enumerate(self._starts[:-1]):
            yield int(start), self._part(number)

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers):
            here = numbers == number
            found[here] = self._part(int(number))[rows[here] - self._starts[number]]
        return found

    def _open(self, number: int) -> np.ndarray:
        file = self.files[number]
        if file.suffix == ".npy":
            return np.load(file, mmap_mode="r")
        import pyarrow.parquet as pq

        column: pa.FixedSizeListArray = pq.read_table(file, columns=["vector"]).column("vector").combine_chunks()
        return column.flatten().to_numpy().reshape(-1, self.shape[1])


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
