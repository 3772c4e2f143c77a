"""Texts of a user's file, one at a time: a line, a JSON object or a Parquet row each, never the whole file at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nvembed.core.errors import UserError

READABLE = (".txt", ".jsonl", ".parquet")
_PARQUET_BATCH = 1024
Text = str | tuple[str, str]


def read_texts(source: Path, column: str, id_column: str | None = None) -> Iterator[Text]:
    """Texts of a .txt, .jsonl or .parquet file in its order, or pairs (id, text) where an id column is named.

    Raises:
        UserError: at once for another kind of file or one that is not there; at its place, with its line or row, for
            what cannot be read and for a row without a text.
    """
    if source.suffix not in READABLE:
        raise UserError(f"IN {source}: give a file ending in {', '.join(READABLE)}")
    if not source.is_file():
        raise UserError(f"IN {source}: there is no such file; check the path")
    if source.suffix == ".txt" and id_column:
        raise UserError(f"--id-column {id_column}: a .txt file has no columns; leave it out")
    return _read(source, column, id_column)


def _read(source: Path, column: str, id_column: str | None) -> Iterator[Text]:
    columns = [column, id_column] if id_column else [column]
    kind = "row" if source.suffix == ".parquet" else "line"
    rows = {".txt": _lines, ".jsonl": _objects, ".parquet": _table}[source.suffix](source, columns)
    try:
        for number, values in rows:
            where = f"IN {source}, {kind} {number}"
            text = _checked(values[0], where, f"no text in {column!r}; name the text's column with --column")
            if not id_column:
                yield text
                continue
            name = str(values[1]) if isinstance(values[1], int) else values[1]
            yield _checked(name, where, f"no id in {id_column!r}; name another --id-column, or none"), text
    except OSError as error:
        raise UserError(f"IN {source}: cannot be read ({error.strerror or error})") from error


def _checked(value: Any, where: str, otherwise: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {otherwise}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: is not valid Unicode ({error.reason}); mend or drop it") from None
    return value


def _decoded_lines(source: Path) -> Iterator[tuple[int, str]]:
    """Only a line feed ends a line: text modes would also cut at the separators that texts contain."""
    with source.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            try:
                yield number, line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"IN {source}, line {number}: is not UTF-8 ({error.reason}); convert it") from None


def _lines(source: Path, columns: list[str]) -> Iterator[tuple[int, list[Any]]]:
    for number, line in _decoded_lines(source):
        yield number, [line]


def _objects(source: Path, columns: list[str]) -> Iterator[tuple[int, list[Any]]]:
    for number, line in _decoded_lines(source):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"IN {source}, line {number}: not JSON ({error})") from None
        yield number, [row.get(column) if isinstance(row, dict) else None for column in columns]


def _table(source: Path, columns: list[str]) -> Iterator[tuple[int, list[Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            for column in columns:
                if column not in names:
                    raise UserError(f"IN {source}: no column {column!r}; there are {', '.join(names)}")
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH, columns=columns):
                values = [batch.column(column).to_pylist() for column in columns]
                for row in zip(*values, strict=True):
                    number += 1
                    yield number, list(row)
    except UnicodeDecodeError as error:
        raise UserError(f"IN {source}, after row {number}: is not UTF-8 ({error.reason}); convert it") from None
    except pa.ArrowException as error:
        what = "not a Parquet file" if number == 0 else f"broken after row {number}"
        raise UserError(f"IN {source}: {what} ({error})") from error
