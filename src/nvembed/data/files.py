"""A user's own file as pairs: what a row may hold, which rows are dropped and why, exact duplicates.

`query` and `positive` are a text or a list of texts each: every query of a row goes with every positive of it.
`negatives` (optional) is a text or a list. `task` (optional) is a task type, or a name of the user's own for a
retrieval task.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, get_args

from nvembed.core.digests import digest_text
from nvembed.core.errors import UserError
from nvembed.core.progress import Progress
from nvembed.data.example import Pair
from nvembed.data.rows import NOT_UTF8, read_rows
from nvembed.data.source import BadRow
from nvembed.recipe.schema import TaskType

if TYPE_CHECKING:
    from nvembed.recipe import Data

_TASK_TYPES = frozenset(get_args(TaskType))
LISTED = 20  # bad rows listed; all are counted


class Unusable(Exception):
    """A row that cannot be used; the message is the reason."""


class FilePairs:
    """The pairs of a file, each once, in the file's order; iterate once, then look at the counts.

    Attributes:
        rows: rows read, bad ones included.
        bad: rows that cannot be used; `bad_rows` lists the first of them.
        duplicates: pairs dropped because the same query and positive came before.

    Iterating raises UserError for a file that cannot be read, lacks a column, has no usable row, or has a larger
    share of bad rows than `data.max_bad_rows`.
    """

    def __init__(self, data: Data) -> None:
        assert data.path is not None
        self.data, self.path = data, data.path
        self.rows = self.bad = self.duplicates = 0
        self.bad_rows: list[BadRow] = []

    def __iter__(self) -> Iterator[Pair]:
        columns = self.data.columns
        required = {"query": columns.query, "positive": columns.positive}
        progress = Progress(f"reading {self.path.rpartition('/')[2]}")
        seen: set[bytes] = set()
        for line, row in read_rows(self.path, required, {columns.negatives, columns.task}):
            self.rows += 1
            progress.update(self.rows)
            try:
                pairs = pairs_of(row, self.data)
            except Unusable as reason:
                self.bad += 1
                if len(self.bad_rows) < LISTED:
                    self.bad_rows.append(BadRow(line, str(reason)))
                continue
            for pair in pairs:
                key = bytes.fromhex(digest_text(f"{pair.task}\0{pair.query}\0{pair.positive}"))[:16]
                if key in seen:
                    self.duplicates += 1
                else:
                    seen.add(key)
                    yield pair
        self._refuse_bad_files(len(seen))

    def _refuse_bad_files(self, pairs: int) -> None:
        if not self.rows:
            raise UserError(f"data.path: {self.path}: has no rows; give a file with rows")
        if self.bad > self.data.max_bad_rows * self.rows:
            first = "; ".join(str(row) for row in self.bad_rows[:3]) + ("; …" if self.bad > 3 else "")
            raise UserError(
                f"data.path: {self.path}: {self.bad} of {self.rows} rows cannot be used ({first}), more than "
                f"data.max_bad_rows = {self.data.max_bad_rows:g} allows; mend them or raise it"
            )
        if pairs == 1 and self.duplicates:
            raise UserError(f"data.path: {self.path}: all {self.rows} rows hold the same pair; give different ones")


def pairs_of(row: dict[str, Any] | str, data: Data) -> list[Pair]:
    """The pairs of a row. Raises Unusable with the reason."""
    if isinstance(row, str):
        raise Unusable(row)
    columns = data.columns
    queries = texts_of(row.get(columns.query), columns.query)
    positives = texts_of(row.get(columns.positive), columns.positive)
    negatives = texts_of(row.get(columns.negatives), columns.negatives, optional=True)
    task = row.get(columns.task) or "retrieval"
    if not isinstance(task, str):
        raise Unusable(f"{columns.task} is {_type_name(task)}, not text")
    task = _text(task)
    kept = tuple(text for text in negatives if text not in positives and text not in queries)
    pair = Pair("", "", kept, task=task, task_type=task if task in _TASK_TYPES else "retrieval")
    return [replace(pair, query=query, positive=positive) for query, positive in product(queries, positives)]


def sample(pairs: Iterable[Pair], limit: int | None, seed: int) -> Iterator[Pair]:
    """All pairs, or `limit` of them drawn by seed and content, in their order; holds no more than it draws."""
    if limit is None:
        yield from pairs
        return
    ranked = ((digest_text(f"{seed}\0{p.query}\0{p.positive}"), number, p) for number, p in enumerate(pairs))
    drawn = heapq.nsmallest(limit, ranked, key=lambda entry: entry[:2])
    yield from (pair for _, _, pair in sorted(drawn, key=lambda entry: entry[1]))


def texts_of(value: Any, column: str, *, optional: bool = False) -> list[str]:
    """The different texts of a value. Raises Unusable if it holds none or something else."""
    if isinstance(value, str) and (text := _text(value)):
        return [text]
    items = value if isinstance(value, list) else [value]
    for item in items:
        if item is not None and not isinstance(item, str):
            raise Unusable(f"{column} is {_type_name(item)}, not text")
    texts = list(dict.fromkeys(text for text in (_text(item) for item in items if item) if text))
    if not texts and not optional:
        raise Unusable(f"no {column}" if value is None else f"empty {column}")
    return texts


def _text(text: str) -> str:
    text = text.strip()
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Unusable(NOT_UTF8) from None
    return text


def _type_name(value: Any) -> str:
    return {bool: "a boolean", dict: "an object", list: "a list", bytes: "binary"}.get(type(value), "a number")
