"""Rows that name their texts by id, joined with the tables that hold them: BEIR's qrels, ids in a row, candidates.

Only the texts that are asked for are kept, in a SQLite file beside the other temporary files, so that memory stays
bounded however large the corpus is: it is gone through once.
"""

from __future__ import annotations

import ast
import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvembed.data.adapters.columns import Roles, find_roles
from nvembed.data.adapters.shapes import Row, Texts, each_row, number_of
from nvembed.data.adapters.tables import OpenTable, open_table
from nvembed.data.adapters.tally import Tally
from nvembed.data.example import Pair
from nvembed.data.files import Unusable, texts_of
from nvembed.data.rows import Wanted
from nvembed.recipe import Data, Place, Table

JOINED_DEFAULTS = {
    "beir": {"query_id": "query-id", "positive_ids": "corpus-id", "score": "score"},
    "ids": {"query": "query", "positive_ids": "positive_ids", "negative_ids": "negative_ids"},
    "candidates": {"query_id": "query_id", "candidate_ids": "document_ids", "scores": "scores"},
}
"""Columns of each joined shape where the recipe names none."""

_TEXTS = {"id": "_id|id", "text": "title+text|text"}
_PAGES = 64 << 10  # KiB of SQLite's page cache


@dataclass
class Joined:
    """The three tables of a joined shape, opened; `queries` is None where rows hold the query itself."""

    rows: OpenTable
    roles: Roles
    corpus: OpenTable
    corpus_roles: Roles
    queries: OpenTable | None = None
    queries_roles: Roles | None = None

    @property
    def notes(self) -> list[str]:
        """What is to be said of the columns."""
        more = self.queries_roles.notes if self.queries_roles else []
        return [*self.roles.notes, *more, *self.corpus_roles.notes]


@dataclass(frozen=True, slots=True)
class Ids:
    """A pair by its ids, and the number of its row; `query` is a text where rows hold the query itself."""

    query: str
    positive: str
    negatives: tuple[str, ...]
    row: int

    @property
    def key(self) -> str:
        return f"{self.query}\0{self.positive}"


def open_joined(name: str, place: Place, data: Data, *, guessed: bool) -> Joined:
    """Open a joined shape's tables. Raises UserError if one is not there or lacks a column."""
    rows = open_table(name, place, data)
    defaults = dict(JOINED_DEFAULTS[place.shape])
    said = dict(place.columns)
    beir = place.shape == "beir"
    queries = place.queries
    if queries is None and place.shape != "ids":
        queries = Table(config="queries", split="queries" if beir else None)
    if place.shape == "ids" and queries is not None:
        defaults["query_id"] = defaults.pop("query")
        if "query" in said:
            said["query_id"] = said.pop("query")
    optional = frozenset({"negative_ids"})
    roles = find_roles(rows, said, defaults, optional, guessed=guessed)
    corpus_table = place.corpus
    if beir and corpus_table == Table():
        corpus_table = Table(config="corpus", split="corpus")
    corpus = open_table(name, _beside(place, corpus_table), data)
    joined = Joined(rows, roles, corpus, _text_roles(corpus, corpus_table, guessed=guessed))
    if queries is not None:
        joined.queries = open_table(name, _beside(place, queries), data)
        joined.queries_roles = _text_roles(joined.queries, queries, guessed=guessed)
    return joined


def _beside(place: Place, table: Table) -> Table:
    """A second table with what it does not say taken from its source."""
    if table.path is not None or (place.path is not None and table.repo is None):
        return table if table.path else place
    repo = table.repo or place.repo
    revision = table.revision or (place.revision if repo == place.repo else None)
    split = table.split or (place.split if repo == place.repo else None)
    return table.model_copy(update={"repo": repo, "revision": revision, "split": split})


def _text_roles(table: OpenTable, said: Table, *, guessed: bool) -> Roles:
    return find_roles(table, said.columns, _TEXTS, guessed=guessed or not said.columns)


def read_ids(joined: Joined, place: Place, tally: Tally, wanted: Wanted | None = None) -> Iterator[Ids]:
    """The pairs of every usable row by their ids; judgements of 0 or less are dropped and counted."""
    return each_row(joined.rows, joined.roles, tally, wanted, lambda row: _ids(row, joined.roles, place, tally))


def _ids(row: Row, roles: Roles, place: Place, tally: Tally) -> Iterator[Ids]:
    if "query" in roles.readings:
        (query,) = texts_of(roles.get("query", row), "query")
    else:
        query = _id(roles.get("query_id", row), "query id")
    if place.shape == "candidates":
        yield Ids(query, *_best_of(row, roles, place), tally.row)
        return
    if place.shape == "beir" and number_of(roles.get("score", row), "score") <= 0:
        tally.drop("judged not relevant")
        return
    negatives = _id_list(roles.get("negative_ids", row))
    positives = _id_list(roles.get("positive_ids", row))
    if not positives:
        raise Unusable("no positive")
    for positive in positives:
        yield Ids(query, positive, tuple(number for number in negatives if number not in positives), tally.row)


def _best_of(row: Row, roles: Roles, place: Place) -> tuple[str, tuple[str, ...]]:
    """The first candidate, which is the positive, and the negatives, which score less than a share of it.

    NV-Retriever's rule of the percentage (arXiv 2407.15831); a share of a negative score lies below it by as much as
    the score is divided by it.
    """
    candidates, scores = _id_list(roles.get("candidate_ids", row)), roles.get("scores", row) or []
    if not candidates or len(candidates) != len(scores):
        raise Unusable(f"{len(candidates)} candidates but {len(scores)} scores")
    best = number_of(scores[0], "score")
    ceiling = best * place.keep_below if best > 0 else best / place.keep_below
    below = [one for one, score in zip(candidates[1:], scores[1:], strict=True) if score < ceiling]
    return candidates[0], tuple(below[: place.most_negatives])


def _id(value: Any, what: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise Unusable(f"no {what}")
    return str(value).strip()


def _id_list(value: Any) -> list[str]:
    """Ids of a list, of one id, or of a text that writes a list."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            raise Unusable("ids are no list") from None
    items = value if isinstance(value, list) else [] if value is None else [value]
    return list(dict.fromkeys(_id(item, "id") for item in items))


def joined_texts(records: Iterable[Ids], joined: Joined, tally: Tally) -> Iterator[Texts]:
    """The records with their texts, in order. One whose query or passage is nowhere is dropped and counted."""
    with tempfile.TemporaryDirectory(prefix="nvembed-join-") as folder:
        spool = Path(folder) / "records.jsonl"
        passages, queries = _Wanted(Path(folder) / "passages"), _Wanted(Path(folder) / "queries")
        with spool.open("w", encoding="utf-8") as stream:
            for record in records:
                stream.write(json.dumps([record.row, record.query, record.positive, record.negatives]) + "\n")
                passages.want([record.positive, *record.negatives])
                if joined.queries is not None:
                    queries.want([record.query])
        passages.fill(joined.corpus, joined.corpus_roles)
        if joined.queries is not None and joined.queries_roles is not None:
            queries.fill(joined.queries, joined.queries_roles)
        with spool.open(encoding="utf-8") as stream:
            for line in stream:
                row, query, positive, negatives = json.loads(line)
                tally.at(row)
                asked = queries.text(query) if joined.queries is not None else query
                answer = passages.text(positive)
                if asked is None or answer is None:
                    tally.drop("query without a text" if asked is None else "passage without a text")
                    continue
                texts = [text for one in negatives if (text := passages.text(one)) not in (None, asked, answer)]
                yield Texts(Pair(asked, answer, tuple(dict.fromkeys(str(text) for text in texts))), row)
        passages.close()
        queries.close()


class _Wanted:
    """Texts by id, on disk: first the ids that are wanted, then their texts from one pass over a table."""

    def __init__(self, path: Path) -> None:
        self._base = sqlite3.connect(path, isolation_level=None)
        self._base.executescript(
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{_PAGES};"
            "CREATE TABLE wanted (id TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID; BEGIN"
        )

    def want(self, ids: Iterable[str]) -> None:
        self._base.executemany("INSERT OR IGNORE INTO wanted (id) VALUES (?)", ((one,) for one in ids))

    def fill(self, table: OpenTable, roles: Roles) -> None:
        self._base.executemany("UPDATE wanted SET text = ? WHERE id = ?", self._texts(table, roles))

    def text(self, one: str) -> str | None:
        found = self._base.execute("SELECT text FROM wanted WHERE id = ?", (one,)).fetchone()
        return found[0] if found else None

    def close(self) -> None:
        self._base.close()

    @staticmethod
    def _texts(table: OpenTable, roles: Roles) -> Iterator[tuple[str, str]]:
        for row in table.rows(roles.columns):
            if isinstance(row, dict):
                try:
                    texts = texts_of(roles.get("text", row), "text", optional=True)
                    number = _id(roles.get("id", row), "id")
                except Unusable:
                    continue  # a passage that cannot be read is counted where it is missed
                if texts:
                    yield "\n".join(texts), number
