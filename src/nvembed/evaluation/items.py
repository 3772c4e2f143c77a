"""The items of a task: what each query, pair, text or document contributed to the score. One table for every type.

A row is one item of the task; a column that its type does not need is null. Rows of one subset stand together, and so
do those of one group. Kept as columns: a clustering task of MTEB has up to 700,000 documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

COLUMNS: dict[str, pa.DataType] = {
    "item": pa.string(),  # a query's id, a row's number
    "score": pa.float64(),  # its own share of the metric, where the metric is a mean over items
    "subset": pa.string(),  # mteb's hf subset ("default"), or the part of an aggregate task
    "group": pa.int32(),  # clusterings of separate sets of documents: the set
    "value": pa.float64(),  # pairs: the similarity that the metric ranks by
    "gold": pa.float64(),  # STS: the similarity that people gave
    "target": pa.int32(),  # the true class, or the index of the right translation
    "targets": pa.list_(pa.int32()),  # several at once: levels of a hierarchy, 0/1 of every label
    "predictions": pa.list_(pa.int32()),  # a class for each experiment or clustering, -1 where the item had no part
    "draws": pa.list_(pa.int32()),  # clustering: how often each clustering drew the document
    "rank": pa.int32(),  # place of the first relevant document, from 1
    "top": pa.list_(pa.string()),  # ids of the first documents
    "text": pa.string(),
    "relevant_text": pa.string(),
    "top_text": pa.string(),
}
SCHEMA = pa.schema(list(COLUMNS.items()))
FILE_SCHEMA = pa.schema([("split", pa.string()), ("task", pa.string()), *COLUMNS.items()])


class Items(Sequence[dict[str, Any]]):
    """The items of one task: rows (dicts that hold every column) to read, columns to compute with."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table.select(SCHEMA.names).cast(SCHEMA)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Items:
        """From rows; a column that a row does not name is null."""
        return rows if isinstance(rows, Items) else cls(pa.Table.from_pylist(list(rows), schema=SCHEMA))

    @classmethod
    def of_columns(cls, count: int, **columns: Any) -> Items:
        """From columns of `count` values each; those not named are null. A text stands for `count` times itself."""
        arrays = {}
        for name, kind in COLUMNS.items():
            given = columns.pop(name, None)
            given = [given] * count if given is None or isinstance(given, str) else given
            arrays[name] = pa.array(given, type=kind)
        if columns:
            raise ValueError(f"no such columns: {', '.join(columns)}")
        return cls(pa.table(arrays, schema=SCHEMA))

    @classmethod
    def join(cls, parts: Iterable[Items]) -> Items:
        """One after the other."""
        return cls(pa.concat_tables([part.table for part in parts] or [SCHEMA.empty_table()]))

    def column(self, name: str) -> np.ndarray:
        """A column without nulls as an array; lists of equal length as (items, length)."""
        chunks = self.table.column(name).combine_chunks()
        if pa.types.is_list(chunks.type):
            return np.asarray(chunks.flatten()).reshape(len(self), -1) if len(self) else np.zeros((0, 0), int)
        return np.asarray(chunks)

    def has(self, name: str) -> bool:
        """Whether any item has a value in this column."""
        return self.table.column(name).null_count < len(self)

    def ids(self) -> pa.Table:
        """What must agree if two models' items are to be compared in pairs: subset, group and item."""
        return self.table.select(["subset", "group", "item"])

    def runs(self, name: str) -> list[Items]:
        """Parts whose values in a column are equal, which stand together."""
        values = self.table.column(name).combine_chunks().dictionary_encode(null_encoding="encode")
        codes = np.asarray(values.indices)
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        if len(set(codes[starts].tolist())) < len(starts):
            raise ValueError(f"items of one {name} do not stand together")
        ends = [*starts[1:].tolist(), len(self)]
        return [Items(self.table.slice(a, b - a)) for a, b in zip(starts.tolist(), ends, strict=True)]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Items: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Items:
        if isinstance(index, slice):
            return Items(self.table.take(list(range(len(self)))[index]))
        row: dict[str, Any] = self.table.slice(range(len(self))[index], 1).to_pylist()[0]
        return row

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.table.to_batches(max_chunksize=4096):
            yield from batch.to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Items) and bool(self.table.equals(other.table))

    __hash__ = None  # type: ignore[assignment]


def write_items(file: Path, tasks: Iterable[tuple[str, str, Sequence[Mapping[str, Any]]]]) -> None:
    """Write (split, task, items) of each task into one Parquet file, a row group a task."""
    with pq.ParquetWriter(file, FILE_SCHEMA, compression="zstd") as writer:
        for split, task, rows in tasks:
            table = Items.of(rows).table
            names = [pa.array([name] * len(table), pa.string()) for name in (split, task)]
            writer.write_table(
                pa.table([*names, *table.columns], schema=FILE_SCHEMA), row_group_size=max(len(table), 1)
            )


def read_items(file: Path) -> dict[tuple[str, str], Items]:
    """The items by (split, task). Columns that an older file lacks are null. Raises KeyError, OSError, ValueError."""
    table = pq.read_table(file)
    for name in FILE_SCHEMA.names:
        if name not in table.column_names:
            kind = FILE_SCHEMA.field(name).type
            blank = pa.array(["default"] * len(table)) if name == "subset" else pa.nulls(len(table), kind)
            table = table.append_column(name, blank)
    keys = pc.binary_join_element_wise(table["split"], table["task"], "\x00").combine_chunks()
    codes = keys.dictionary_encode()
    found = {}
    for code, key in enumerate(codes.dictionary.to_pylist()):
        split, task = key.split("\x00")
        rows = np.flatnonzero(np.asarray(codes.indices) == code)
        part = table.slice(rows[0], len(rows)) if rows[-1] - rows[0] == len(rows) - 1 else table.take(rows)
        found[split, task] = Items(part)
    return found
