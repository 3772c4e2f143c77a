"""Training examples on disk, read one by one: millions of them in the memory of their numbers.

A dataset's Parquet parts are compressed by columns, 50,000 rows at a time, which is no form to read single rows from.
So they are written once more, as uncompressed Arrow files of small record batches, which are mapped into memory: a row
is then found without reading another, and the operating system keeps of the files what memory there is to spare. They
lie in the state folder, named by the dataset's content, and take the disk that the texts take: about 7 kB an example
with seven negatives of 150 words. Every rank on a machine maps the same files.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.core.artifacts import MANIFEST, read_manifest, write_file
from nvembed.core.digests import digest_folder, digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import track
from nvembed.core.state import hold, state_folder
from nvembed.data.columns import text_key
from nvembed.data.example import Example
from nvembed.data.lengths import Lengths, estimated_tokens, with_template

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_A_BATCH = 1000
FORMAT = 1
KEYED = ("id", "query", "positive")
_NAMES = tuple(Example.__dataclass_fields__)
_DONE = "done.json"


def open_examples(folder: Path | str) -> ExampleTable:
    """The training examples of a dataset folder, in order, read when asked for.

    The first call writes them into the state folder, in the memory of one record batch; others wait for it.

    Raises:
        UserError: no examples there, a part that cannot be read, a full disk, unpacked files that were damaged since.
    """
    from pyarrow import ArrowException

    folder = Path(folder)
    content = read_manifest(folder).content if (folder / MANIFEST).is_file() else digest_folder(folder / "train")
    place = state_folder("examples", digest_json([FORMAT, content]))
    if not (place / _DONE).is_file():
        with hold(place):
            if not (place / _DONE).is_file():
                _convert(folder, place)
    try:
        table = ExampleTable(sorted(place.glob("*.arrow")))
    except (ArrowException, OSError, ValueError) as error:
        raise UserError(f"{place}: unpacked examples are damaged ({error}); remove this folder") from error
    if not len(table):
        raise UserError(f"{folder}: holds no training examples; give a folder that prepare or mining wrote")
    return table


class ExampleTable(Sequence[Example]):
    """Examples in Arrow files that `open_examples` wrote."""

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow as pa

        readers = [pa.ipc.open_file(pa.BufferReader(pa.py_buffer(_map(file)))) for file in files]
        self._batches: list[pa.RecordBatch] = [
            reader.get_batch(number) for reader in readers for number in range(reader.num_record_batches)
        ]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: Any) -> Any:
        """An example by its number; a slice is a list of them."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row = self._row(index, _NAMES)
        return Example(**{**row, "negatives": tuple(row["negatives"])})

    @property
    def has_scores(self) -> bool:
        """Whether a teacher has scored any of them."""
        return any(
            "positive_score" in batch.schema.names and batch["positive_score"].null_count < batch.num_rows
            for batch in self._batches
        )

    def scores(self, index: int) -> dict[str, float]:
        """The teacher's scores of an example's own texts; none if it was not mined."""
        row = self._row(index, ("positive", "negatives", "positive_score", "negative_scores"))
        if row["positive_score"] is None:
            return {}
        scored = zip(row["negatives"], row["negative_scores"], strict=True)
        return {row["positive"]: row["positive_score"], **dict(scored)}

    def first_bad_scores(self) -> int | None:
        """The first example whose scores are not one finite number for its positive and for each of its negatives."""
        import pyarrow.compute as pc

        for batch, start in zip(self._batches, self._starts, strict=False):
            if "positive_score" not in batch.schema.names:
                continue
            scores, lengths = batch["negative_scores"], pc.list_value_length
            one_each = pc.equal(lengths(scores), lengths(batch["negatives"]))
            good = pc.and_(pc.is_finite(batch["positive_score"]), one_each)
            good = np.array(pc.fill_null(good, False))
            wrong = ~np.array(pc.fill_null(pc.is_finite(scores.flatten()), False))
            good[np.array(pc.list_parent_indices(scores))[wrong]] = False
            bad = np.flatnonzero(~good & np.array(pc.is_valid(batch["positive_score"]), dtype=bool))
            if len(bad):
                return int(start + bad[0])
        return None

    def codes(self, field: str) -> tuple[np.ndarray, list[str]]:
        """See `Columns`."""

        numbers: dict[str, int] = {}
        found = []
        for batch in self._batches:
            encoded: pa.DictionaryArray = batch[field].dictionary_encode()
            names = np.array([numbers.setdefault(n, len(numbers)) for n in encoded.dictionary.to_pylist()], np.int32)
            found.append(names[encoded.indices.to_numpy()])
        return np.concatenate(found), list(numbers)

    def keys(self, field: str) -> np.ndarray:
        """See `Columns`."""
        return np.concatenate([batch[f"{field}_key"].to_numpy() for batch in self._batches])

    def negatives(self) -> np.ndarray:
        """How many hard negatives each example has: (n,) int32."""
        import pyarrow.compute as pc

        return np.concatenate([pc.list_value_length(batch["negatives"]).to_numpy() for batch in self._batches])

    def tokens(self, lengths: Lengths) -> np.ndarray:
        """See `Columns`. Reads no text, only where texts end."""
        return np.concatenate([_batch_tokens(batch, lengths) for batch in self._batches])

    def _row(self, index: int, names: Sequence[str]) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        batch, place = self._batches[number], index - int(self._starts[number])
        return {name: batch[name][place].as_py() for name in names}


class TeacherScores(Mapping[str, Mapping[str, float]]):
    """Scores that mining's teacher gave: an example's id → text of its positive or of a negative → score.

    They are looked up in the table; rows of one id share theirs.
    """

    def __init__(self, table: ExampleTable) -> None:
        self._table = table
        keys = table.keys("id")
        self._order = np.argsort(keys, kind="stable").astype(np.int32)
        self._keys = keys[self._order]

    def __getitem__(self, id: str) -> Mapping[str, float]:
        key = np.uint64(text_key(id))
        rows = self._order[np.searchsorted(self._keys, key) : np.searchsorted(self._keys, key, side="right")]
        found: dict[str, float] = {}
        for row in rows.tolist():
            found.update(self._table.scores(row))
        if not found:
            raise KeyError(id)
        return found

    def __iter__(self) -> Iterator[str]:
        ids = (self._table[row].id for row in range(len(self._table)) if self._table.scores(row))
        return iter(dict.fromkeys(ids))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def read_teacher_scores(folder: Path | str) -> TeacherScores:
    """The teacher's scores of a dataset folder. Raises UserError if it holds none, or one that is no number."""
    table = open_examples(folder)
    if not table.has_scores:
        raise UserError(f"{folder}: holds no scores of a teacher; give a folder that mining wrote with mining.enabled")
    bad = table.first_bad_scores()
    if bad is not None:
        example = table[bad]
        raise UserError(
            f"{folder}: the teacher's scores of example {example.id[:16]} ({example.query[:40]!r}) are not one finite "
            "number for its positive and each negative; mine the folder anew"
        )
    return TeacherScores(table)


def _convert(folder: Path, place: Path) -> None:
    """Write each Parquet part as an Arrow file, then `done.json`. Parts that an earlier attempt finished are kept."""
    parts = sorted((folder / "train").glob("*.parquet"))
    for part in track(parts, "unpacking examples"):
        file = place / f"{part.stem}.arrow"
        if file.is_file():
            continue
        aside = place / f".{file.name}.partial"
        try:
            _convert_part(part, aside)
            with aside.open("rb") as stream:
                os.fsync(stream.fileno())
            aside.replace(file)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(f"{place}: the disk is full while examples are unpacked; free some space") from error
            raise
        finally:
            aside.unlink(missing_ok=True)
    write_file(place / _DONE, json.dumps({"parts": len(parts)}) + "\n")


def _convert_part(part: Path, out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pq.ParquetFile(part, memory_map=True, pre_buffer=False, buffer_size=1 << 20)
        fields = [(field.name, field.type) for field in source.schema_arrow]
        schema = pa.schema([*fields, *((f"{name}_key", pa.uint64()) for name in KEYED)])
        with pa.OSFile(str(out), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in source.iter_batches(batch_size=ROWS_A_BATCH, use_threads=False):
                digests = [pa.array(map(text_key, batch[name].to_pylist()), pa.uint64()) for name in KEYED]
                writer.write_batch(pa.record_batch([*batch.columns, *digests], schema=schema))
    except (pa.ArrowException, KeyError) as error:
        raise UserError(f"{part}: cannot be read as training examples ({error}); make the folder anew") from error


def _map(file: Path) -> mmap.mmap:
    """A file in memory, of which only the pages asked for are read.

    Without that advice the system reads on at every page it misses: 3.5 MB on one machine, for a row of 7 kB, so that
    files larger than the memory were read ten times over.
    """
    with file.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return mapped


def _batch_tokens(batch: pa.RecordBatch, lengths: Lengths) -> np.ndarray:
    """`lengths.example_tokens` of a record batch's examples."""
    import pyarrow.compute as pc

    def size(column: pa.Array) -> np.ndarray:
        return pc.binary_length(column).to_numpy().astype(np.int64)

    around = with_template(size(batch["document_instruction"]))
    query = with_template(size(batch["query_instruction"])) + size(batch["query"])
    tokens = estimated_tokens(query, lengths.query_max_length)
    tokens = tokens + estimated_tokens(around + size(batch["positive"]), lengths.document_max_length)
    counts = pc.list_value_length(batch["negatives"]).to_numpy()
    owners = np.repeat(np.arange(batch.num_rows), counts)
    turns = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    texts = estimated_tokens(around[owners] + size(batch["negatives"].flatten()), lengths.document_max_length)
    used = turns < lengths.negatives
    return tokens + np.bincount(owners[used], weights=texts[used], minlength=batch.num_rows).astype(np.int64)
