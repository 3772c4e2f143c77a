"""A table of a source, opened: its files, the columns that are there, its rows in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import Progress
from nvembed.data.adapters.hub import download, find_on_hub, is_found
from nvembed.data.adapters.mirror import find_in_mirror
from nvembed.data.locations import file_kind, open_file, source_digest
from nvembed.data.rows import NOT_WANTED, Wanted, read_rows

if TYPE_CHECKING:
    from nvembed.recipe import Data, Table

PEEKED = 100
"""Rows in which every column that is read must show itself."""


@dataclass(frozen=True)
class OpenTable:
    """Files of one table.

    Attributes:
        source: name of the source, for messages.
        where: what the table is, for people: `owner/name@revision config/split`.
        revision: the commit, or a digest of the content.
        license: what the dataset's card says, if it says anything.
    """

    source: str
    where: str
    files: tuple[str, ...]
    revision: str
    license: str | None
    attempts: int = 1

    @property
    def digest(self) -> str:
        """What names the content."""
        return digest_json([self.where, self.revision])

    def fail(self, what: str) -> UserError:
        """A UserError that names the source and the table."""
        return UserError(f"source {self.source}: {self.where}: {what}")

    def peek(self) -> list[dict[str, Any]]:
        """The first rows, of a file on the hub without downloading it. Raises UserError if there are none."""
        try:
            rows = [
                row for _, row in itertools.islice(self._read(self.files[0], None), PEEKED) if isinstance(row, dict)
            ]
        except UserError as error:
            raise self._named(error) from error
        if not rows:
            raise self.fail("has no row that can be read in its first file")
        return rows

    def rows(self, columns: set[str], wanted: Wanted | None = None) -> Iterator[dict[str, Any] | str | None]:
        """Every row: its values, of Parquet the named columns alone, or the reason why it cannot be read.

        None for a row that `wanted` (of the table's row numbers, from 1) leaves out.
        """
        progress, number = Progress(f"reading {self.source}"), 0
        try:
            for file in self.files:
                local = download(file, attempts=self.attempts) if is_found(file) else file
                before = number
                inside = None if wanted is None else (lambda row, before=before: wanted(before + row))
                for _, row in self._read(local, columns, inside):
                    number += 1
                    if number % 1000 == 0:
                        progress.update(number)
                    yield None if row is NOT_WANTED else row
            progress.close()
        except UserError as error:
            raise self._named(error) from error

    def _read(
        self, path: str, columns: set[str] | None, wanted: Wanted | None = None
    ) -> Iterator[tuple[int, dict[str, Any] | str]]:
        if columns is None:
            columns = set(_parquet_columns(path)) if file_kind(path) == "parquet" else set()
        return read_rows(path, {}, columns, arrays=True, wanted=wanted)

    def _named(self, error: UserError) -> UserError:
        said = str(error).removeprefix("data.path: ")
        return error if said.startswith("source ") else UserError(f"source {self.source}: {self.where}: {said}")


def open_table(source: str, table: Table, data: Data) -> OpenTable:
    """Find a table's files. Raises UserError, which names the source, if it is not there."""
    try:
        if table.path is not None:
            files = _paths(table.path)
            digest = digest_json([source_digest(file) for file in files])
            return OpenTable(source, table.path, files, digest[:40], None)
        assert table.repo is not None
        split = table.split or "train"
        if data.hub_mirror is not None:
            found = find_in_mirror(data.hub_mirror, table.repo, table.config, split, table.files)
        else:
            found = find_on_hub(
                table.repo, table.config, split, table.files, table.revision, attempts=data.download_attempts
            )
    except UserError as error:
        raise UserError(f"source {source}: {str(error).removeprefix('data.path: ')}") from error
    part = table.files or "/".join(part for part in (table.config, found.split) if part)
    where = f"{table.repo}@{found.revision[:12]} {part}"
    return OpenTable(source, where, found.files, found.revision, found.license, data.download_attempts)


def _paths(path: str) -> tuple[str, ...]:
    """A file, or the files that a pattern fits."""
    import fsspec

    if "*" not in path:
        return (path if "://" in path else str(Path(path).expanduser()),)
    filesystem, inner = fsspec.core.url_to_fs(path)
    scheme = path.partition("://")[0] + "://" if "://" in path else ""
    files = tuple(f"{scheme}{name}" for name in sorted(filesystem.glob(inner)))
    if not files:
        raise UserError(f"path {path}: fits no file; check it")
    return files


def _parquet_columns(path: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_file(path, decompress=False) as stream:
        try:
            return [str(name) for name in pq.ParquetFile(stream).schema_arrow.names]
        except pa.ArrowException as error:
            raise UserError(f"{path}: is not a Parquet file ({error})") from error
