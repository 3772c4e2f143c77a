"""A source at the door: is it there, can it be used, what is its digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from nvembed.recipe import Data


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: its line (of a Parquet file: its row), counted from 1, and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True)
class SourceCheck:
    """What a source holds. `bad_rows` lists the first of them only, `bad` counts them all."""

    digest: str
    rows: int
    bad_rows: tuple[BadRow, ...] = ()
    bad: int = 0
    duplicates: int = 0


def check_source(data: Data) -> SourceCheck:
    """Read a source through and say what it holds.

    Raises UserError for whatever would end a run later: nothing there, nothing to read it with, a missing column,
    too many unusable rows, too few pairs to hold any out, or content other than `data.digest` says.
    """
    if data.source == "python_docs":
        from nvembed.data.modules import check_modules
        from nvembed.data.pydocs import read_python_docs

        docs = read_python_docs()
        check_modules(docs.pairs, data)
        check = SourceCheck(docs.digest, len(docs.pairs))
    elif data.source == "mix":
        check = _check_mix(data)
    else:
        check = _check_file(data)
    check_digest(data, check.digest)
    return check


def _check_mix(data: Data) -> SourceCheck:
    """Every source looked at: there, in its revision, with its columns. `rows` is what the recipe expects of them."""
    from nvembed.data.adapters import check_mix
    from nvembed.data.references import check_references

    check = check_mix(data)
    if check.failed:
        more = f" (and {len(check.failed) - 1} more; `nvembed data check` lists all)" if len(check.failed) > 1 else ""
        raise UserError(f"{check.failed[0].says[0]}{more}")
    check_references(data.decontamination, data.hub_mirror)
    read = [state.source for state in check.states if state.state == "ok"]
    return SourceCheck(check.digest, sum(source.expected or 0 for source in read))


def _check_file(data: Data) -> SourceCheck:
    from nvembed.data.components import PairKey, choose_components
    from nvembed.data.files import FilePairs, sample
    from nvembed.data.locations import file_kind, source_digest

    assert data.path is not None
    file_kind(data.path)
    digest = source_digest(data.path)
    pairs = FilePairs(data)
    keys = [PairKey.of(pair) for pair in sample(pairs, data.limit, data.seed)]
    choose_components(keys, data)
    return SourceCheck(digest, pairs.rows, tuple(pairs.bad_rows), pairs.bad, pairs.duplicates)


def check_digest(data: Data, digest: str) -> None:
    """Raises UserError if the recipe was resolved against other content."""
    if data.digest is not None and data.digest != digest:
        raise UserError(
            f"data.digest: {data.path or data.source} changed since the recipe was resolved "
            f"({digest[:12]} now, {data.digest[:12]} then); start the run anew"
        )
