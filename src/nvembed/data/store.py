"""Dataset folders on disk: Parquet in numbered parts, the same bytes for the same rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.digests import digest_text
from nvembed.core.errors import UserError
from nvembed.data.example import Example

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_A_PART = 50_000
_FIELDS = [field.name for field in fields(Example)]


def write_examples(
    folder: Path, examples: Sequence[Example], *, columns: Mapping[str, Sequence[Any]] | None = None
) -> None:
    """Write `<folder>/train/part-NNNNN.parquet`, one row an example.

    Args:
        folder: the dataset folder.
        examples: rows, in the order in which they are read back.
        columns: further columns beside them, one value an example: `positive_score` (float or None) and
            `negative_scores` (list of float), as mining finds them.
    """
    import pyarrow as pa

    types = {"positive_score": pa.float32(), "negative_scores": pa.list_(pa.float32())}
    schema = pa.schema([*example_schema(), *(pa.field(name, types[name]) for name in columns or ())])
    rows = [asdict(example) for example in examples]
    for name, values in (columns or {}).items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    write_parts(folder / "train", rows, schema)


def example_schema() -> pa.Schema:
    """The columns of an `Example`."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        [pa.field(name, pa.list_(text) if name == "negatives" else text, nullable=False) for name in _FIELDS]
    )


def read_examples(folder: Path | str) -> list[Example]:
    """All training examples of a dataset folder, in order. Raises UserError if it holds none."""
    examples = [
        Example(**{**{name: row[name] for name in _FIELDS}, "negatives": tuple(row["negatives"])})
        for row in read_parts(Path(folder) / "train")
    ]
    if not examples:
        raise UserError(f"{folder}: holds no training examples; give a folder that prepare or mining wrote")
    return examples


def check_parts(folder: Path, examples: int | None) -> None:
    """Refuse a dataset folder of which a training part is missing.

    Raises UserError with the part's name, or, where none can be named, with how many examples there should be.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def count(part: Path) -> int:
        try:
            return int(pq.read_metadata(part).num_rows)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{part}: cannot be read as Parquet ({error}); make the folder anew") from error

    parts = sorted((folder / "train").glob("*.parquet"))
    there = {part.name for part in parts}
    wanted = [f"part-{number:05d}.parquet" for number in range(max(len(parts), 1))]
    missing = sorted(set(wanted) - there)
    rows = sum(map(count, parts))
    if missing or (examples is not None and rows < examples):
        named = ", ".join(missing[:3]) or f"part-{len(parts):05d}.parquet or a later one"
        counts = f": {rows} of {examples} examples are there" if examples is not None else ""
        raise UserError(f"{folder / 'train'}: {named} is missing{counts}; copy it there again or make the folder anew")


def write_corpus(folder: Path, texts: Iterable[str]) -> int:
    """Write `<folder>/corpus/part-NNNNN.parquet` (id, text), each text once in first-seen order; return how many."""
    rows = [{"id": document_id(text), "text": text} for text in dict.fromkeys(texts)]
    write_parts(folder / "corpus", rows, text_schema())
    return len(rows)


def read_corpus(folder: Path | str) -> dict[str, str]:
    """The passages of a dataset folder: id → text, in order."""
    return {row["id"]: row["text"] for row in read_parts(Path(folder) / "corpus")}


def text_schema() -> pa.Schema:
    """Two string columns: id, text."""
    import pyarrow as pa

    return pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("text", pa.string(), nullable=False)])


def corpus_schema() -> pa.Schema:
    """Passages of a mix: id, text, and the pool of sources whose queries may find it as a negative."""
    import pyarrow as pa

    return text_schema().append(pa.field("pool", pa.string(), nullable=False))


def read_pools(folder: Path | str) -> dict[str, dict[str, str]]:
    """The passages of a dataset folder by pool: pool → id → text; of a folder without pools all are in the pool ""."""
    pools: dict[str, dict[str, str]] = {}
    for row in read_parts(Path(folder) / "corpus"):
        pools.setdefault(row.get("pool", ""), {})[row["id"]] = row["text"]
    return pools


def write_parts(folder: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows as numbered Parquet parts, at least one (an empty dataset still has its columns)."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, start in enumerate(range(0, max(len(rows), 1), ROWS_A_PART)):
        write_table(folder / f"part-{part:05d}.parquet", rows[start : start + ROWS_A_PART], schema)


def write_table(file: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), file, compression="zstd")


def read_parts(folder: Path) -> Iterable[dict[str, Any]]:
    """Rows of all parts of a folder, in order."""
    for table in read_tables(folder):
        yield from table.to_pylist()


def read_tables(folder: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """All parts of a folder, in order, one table each; None: all columns. Raises UserError for what is no Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in sorted(folder.glob("*.parquet")):
        try:
            table = pq.read_table(file, columns=None if columns is None else list(columns))
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: cannot be read as Parquet ({error}); make the folder anew") from error
        yield table


def document_id(text: str) -> str:
    """The id of a passage: a digest of its text."""
    return "d" + digest_text(text)[:16]


def document_key(text: str) -> int:
    """A passage's id as a 64-bit number, in the same order."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def query_id(text: str) -> str:
    """The id of a query: a digest of its text."""
    return "q" + digest_text(text)[:16]
