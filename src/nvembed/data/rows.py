"""Rows of a user's file, one at a time: each is a mapping, or the reason why it cannot be used.

JSON Lines and CSV are read as bytes and decoded row by row, so that one broken row costs one row. Memory stays bounded
by the longest row (CSV) or by a batch of rows (Parquet).
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

from nvembed.core.errors import UserError
from nvembed.data.locations import file_kind, open_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Row = tuple[int, dict[str, Any] | str]
"""Line (of a Parquet file: row) counted from 1, and its values or the reason why it is unusable."""
Wanted = Callable[[int], bool]
"""Whether the n-th row, counted from 1, is wanted."""
NOT_WANTED = "not wanted"

NOT_UTF8 = "not UTF-8"
_LONGEST_FIELD = 16 << 20  # a quote that is never closed would otherwise swallow the rest of the file
_PROBE = 100  # rows in which a JSON Lines file must show a column
_PARQUET_BATCH = 256


def read_rows(
    path: str, required: dict[str, str], optional: set[str], *, arrays: bool = False, wanted: Wanted | None = None
) -> Iterator[Row]:
    """Rows of a JSONL, CSV, TSV or Parquet file.

    Args:
        path: anything fsspec reads; compressed by gzip, bzip2 or xz if its name says so.
        required: role → column: these must be there.
        optional: columns read beside them where they are there.
        arrays: whether a line of JSONL may be an array: its items are columns 0, 1, ….
        wanted: rows that it leaves out are not decoded where that can be helped and come as `NOT_WANTED`.

    Raises:
        UserError: no such file, a file of another format, or a required column is missing.
    """
    kind = file_kind(path)
    with open_file(path, decompress=kind != "parquet") as stream:
        try:
            if kind == "jsonl":
                yield from _read_jsonl(stream, path, required, arrays, wanted)
            elif kind == "parquet":
                yield from _read_parquet(stream, path, required, optional, wanted)
            else:
                rows = _read_csv(stream, path, required, "\t" if kind == "tsv" else ",")
                for number, (line, row) in enumerate(rows, 1):
                    yield line, row if wanted is None or wanted(number) else NOT_WANTED
        except (
            EOFError,
            OSError,
            zlib.error,
            lzma.LZMAError,
        ) as error:  # a broken or truncated archive, a connection that ended
            raise UserError(f"data.path: {path}: cannot be read to its end ({error}); copy the file anew") from error


def _read_jsonl(
    stream: IO[bytes], path: str, required: dict[str, str], arrays: bool, wanted: Wanted | None
) -> Iterator[Row]:
    missing, keys, rows = dict(required), dict[str, None](), 0
    for line, raw in enumerate(stream, 1):
        if wanted is not None and not wanted(line):
            yield line, NOT_WANTED
            continue
        row = _json_row(raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw, arrays)
        if isinstance(row, dict) and missing:
            rows += 1
            keys.update(dict.fromkeys(list(row)[:20]))
            missing = {role: column for role, column in missing.items() if column not in row}
            if missing and rows >= _PROBE:
                break
        yield line, row
    if missing and rows:
        raise _missing_column(path, missing, list(keys))


def _json_row(raw: bytes, arrays: bool) -> dict[str, Any] | str:
    if not raw.strip():
        return "empty row"
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return NOT_UTF8
    except (ValueError, RecursionError):
        return "not JSON"
    if arrays and isinstance(row, list):
        return {str(number): item for number, item in enumerate(row)}
    return row if isinstance(row, dict) else f"a JSON {_json_type(row)}, not an object"


def _json_type(value: Any) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def _read_csv(stream: IO[bytes], path: str, required: dict[str, str], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    # surrogateescape lets a row that is not UTF-8 through, so that it alone can be refused
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:  # type: ignore[type-var]
        reader = csv.reader(text, delimiter=delimiter)
        header = [name.strip() for name in next(reader, [])]
        missing = {role: column for role, column in required.items() if column not in header}
        if missing:
            raise _missing_column(path, missing, header)
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, f"not CSV ({error})"
                continue
            yield line, _csv_row(fields, header)


def _csv_row(fields: list[str], header: list[str]) -> dict[str, Any] | str:
    if not any(field.strip() for field in fields):
        return "empty row"
    if len(fields) != len(header):
        return f"{len(fields)} fields where the header has {len(header)}"
    return {name: _csv_value(field) for name, field in zip(header, fields, strict=True)}


def _csv_value(field: str) -> Any:
    """A cell is a text; one that holds a JSON list of texts is that list."""
    if field.startswith("["):
        try:
            value = json.loads(field)
        except ValueError:
            return field
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
    return field


def _read_parquet(
    stream: IO[bytes], path: str, required: dict[str, str], optional: set[str], wanted: Wanted | None
) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(stream)
    except pa.ArrowException as error:
        raise UserError(f"data.path: {path}: is not a Parquet file ({error})") from error
    names = file.schema_arrow.names
    missing = {role: column for role, column in required.items() if column not in names}
    if missing:
        raise _missing_column(path, missing, names)
    columns = [name for name in names if name in {*required.values(), *optional}]
    number = 0
    for batch in _batches(file, path, columns):
        if wanted is not None and not any(wanted(number + place) for place in range(1, batch.num_rows + 1)):
            yield from ((number + place, NOT_WANTED) for place in range(1, batch.num_rows + 1))
            number += batch.num_rows
            continue
        for values in _values(batch):
            number += 1
            if wanted is not None and not wanted(number):
                yield number, NOT_WANTED
            else:
                yield number, dict(zip(columns, values, strict=True)) if values is not None else NOT_UTF8


def _values(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...] | None]:
    """The values of each row; None for one that holds a text that is not UTF-8, which costs that row alone."""
    try:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield tuple(column[index].as_py() for column in batch.columns)
            except UnicodeDecodeError:
                yield None


def _batches(file: pq.ParquetFile, path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    try:
        yield from file.iter_batches(batch_size=_PARQUET_BATCH, columns=columns)
    except pa.ArrowException as error:
        raise UserError(f"data.path: {path}: cannot be read to its end ({error}); copy the file anew") from error


def _missing_column(path: str, missing: dict[str, str], there: list[str]) -> UserError:
    role, column = next(iter(missing.items()))
    guess = next((name for name in there if name.lower() in _OTHER_NAMES[role]), "<its name>")
    listed = ", ".join(there[:20]) or "none"
    return UserError(
        f"data.path: {path}: no column {column!r}; columns there: {listed}; "
        f"name yours with --set data.columns.{role}={guess}"
    )


_OTHER_NAMES = {
    "query": {"query", "question", "anchor", "sentence1", "title", "prompt", "text1", "input"},
    "positive": {
        "positive",
        "pos",
        "passage",
        "document",
        "answer",
        "context",
        "sentence2",
        "response",
        "text2",
        "text",
    },
}
