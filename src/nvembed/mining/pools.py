"""What a mining run reads, numbered, so that questions about texts become questions about integers.

Texts lie in a file on disk (`data.text_file`); memory holds some forty bytes of each. Documents and queries are
numbered by the digest of their text, so the numbers, and with them every tie, are the same in each task that reads the
same folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.core.artifacts import Manifest
from nvembed.core.errors import UserError
from nvembed.core.progress import Progress
from nvembed.data.columns import text_key
from nvembed.data.keys import KeySet
from nvembed.data.store import document_key, read_tables
from nvembed.data.text_file import TextFile
from nvembed.mining.rules import normalise

if TYPE_CHECKING:
    import pyarrow as pa

_PLACED = ("task_type", "source")
_READ = ("query", "positive", "negatives", "query_instruction")


@dataclass(frozen=True)
class Shelf:
    """Distinct texts in the order of their digests.

    Attributes:
        keys: (n,) uint64, digests of the texts. forms: (n,) uint64, digests of their normalised forms.
        places: (n,) int64, numbers in the text file.
    """

    keys: np.ndarray
    forms: np.ndarray
    places: np.ndarray
    file: TextFile

    def __len__(self) -> int:
        return len(self.keys)

    def numbers(self, keys: np.ndarray) -> np.ndarray:
        """Where texts with these digests stand; -1 for what is not here."""
        if not len(self):
            return np.full(len(keys), -1, dtype=np.int64)
        found = np.minimum(np.searchsorted(self.keys, keys), len(self) - 1)
        return np.where(self.keys[found] == keys, found, -1)

    def some(self, mask: np.ndarray) -> Shelf:
        """Those texts that `mask`, (n,) bool, holds."""
        return Shelf(self.keys[mask], self.forms[mask], self.places[mask], self.file)

    def texts(self, numbers: slice | np.ndarray) -> list[str]:
        """The texts with these numbers."""
        return self.file.take(self.places[numbers])

    @cached_property
    def digest(self) -> str:
        """Of all keys."""
        return hashlib.sha256(self.keys.astype("<u8").tobytes()).hexdigest()


@dataclass(frozen=True)
class Pool:
    """Rows to mine and the passages that may be their negatives.

    Documents 0 to `len(corpus) - 1` are candidates; those that follow (`others`) are positives and negatives of the
    rows that the corpus lacks.

    Attributes:
        rows: (r,) places of the rows in the dataset.
        query_of_row, positive_of_row: (r,) their query and their positive.
        instructions, instruction_of_query: tasks that queries are asked under, and which is each query's, (queries,).
        negatives, negative_starts: documents of all rows' own negatives, and where each row's begin, (r + 1,).
        forms, query_forms: (documents,) and (queries,) int64; equal numbers, equal normalised texts.
        positives, positive_starts: documents that are a positive of each query in whatever row, and where each
            query's begin and end, (queries, 2).
    """

    name: str
    corpus: Shelf
    others: Shelf
    queries: Shelf
    rows: np.ndarray
    query_of_row: np.ndarray
    positive_of_row: np.ndarray
    instructions: list[str]
    instruction_of_query: np.ndarray
    negatives: np.ndarray
    negative_starts: np.ndarray
    forms: np.ndarray
    query_forms: np.ndarray
    positives: np.ndarray
    positive_starts: np.ndarray

    def documents_of(self, numbers: np.ndarray) -> list[str]:
        """The texts of documents, whichever shelf they stand on."""
        return self.corpus.file.take(self._places[numbers])

    @cached_property
    def _places(self) -> np.ndarray:
        return np.concatenate([self.corpus.places, self.others.places])

    def positives_of(self, query: int) -> np.ndarray:
        """Documents that are a positive of a query."""
        start, stop = self.positive_starts[query]
        return self.positives[start:stop]

    def own_negatives(self, row: int) -> np.ndarray:
        """Documents that came with a row as its negatives, each once, in the order given."""
        found = self.negatives[self.negative_starts[row] : self.negative_starts[row + 1]]
        return found[np.sort(np.unique(found, return_index=True)[1])]


def read_pools(dataset: Path, source: Manifest, file: TextFile) -> list[Pool]:
    """The pools of a dataset folder that have something to mine, by name; `file` is written to, and closed.

    In a mix a query's negatives come of its own source's passages, or of the pool that the source names. Raises
    UserError where there is something to mine but nothing to find.
    """
    pool_of = _pool_names(source)
    gathered: dict[str, _Gathering] = {}
    train = dataset / "train"
    wanted = {name for table in read_tables(train, _PLACED) for name in _retrieval(table, pool_of)}
    for name, texts in _passages(dataset, wanted):
        gathered.setdefault(name, _Gathering(file)).corpus.add(texts)
    found = {name for name, pool in gathered.items() if len(pool.corpus.seen)}
    if missing := sorted(wanted - found):
        which = f" for pool {missing[0]!r}" if missing[0] else ""
        raise UserError(f"{dataset}: has no corpus to mine{which}; make the dataset anew, or set mining.enabled=false")
    at = 0
    for table in read_tables(train, [*_PLACED, *_READ]):
        for name, places in _retrieval(table, pool_of).items():
            gathered[name].add_rows(places + at, table.take(places))
        at += table.num_rows
    file.close()
    return [gathered[name].pool(name) for name in sorted(wanted)]


class _Distinct:
    """Texts as they come, each kept once."""

    def __init__(self, file: TextFile) -> None:
        self.seen, self._file = KeySet(), file
        self._keys: list[np.ndarray] = []
        self._forms: list[np.ndarray] = []
        self._places: list[np.ndarray] = []

    def add(self, texts: Sequence[str], *, unless: KeySet | None = None) -> np.ndarray:
        """Keep those not seen yet, nor in `unless`; the keys of all of them."""
        keys = np.fromiter(map(document_key, texts), np.uint64, len(texts))
        known = unless.holds(keys) if unless is not None else np.zeros(len(keys), bool)
        fresh = np.flatnonzero(~known)
        fresh = fresh[self.seen.first_seen(keys[fresh])]
        new = [texts[place] for place in fresh]
        first = self._file.add(new)
        self._keys.append(keys[fresh])
        self._forms.append(np.fromiter((text_key(normalise(text)) for text in new), np.uint64, len(new)))
        self._places.append(np.arange(first, first + len(new)))
        return keys

    def shelf(self) -> Shelf:
        empty = np.empty(0, np.uint64)
        keys = np.concatenate([empty, *self._keys])
        order = np.argsort(keys, kind="stable")
        forms = np.concatenate([empty, *self._forms])[order]
        places = np.concatenate([np.empty(0, np.int64), *self._places])[order]
        return Shelf(keys[order], forms, places, self._file)


class _Gathering:
    """One pool while it is read."""

    def __init__(self, file: TextFile) -> None:
        self.corpus, self.others, self.queries = _Distinct(file), _Distinct(file), _Distinct(file)
        self._places: list[np.ndarray] = []
        self._query_keys: list[np.ndarray] = []
        self._instructions: dict[str, int] = {}
        self._instruction_of_row: list[np.ndarray] = []
        self._positive_keys: list[np.ndarray] = []
        self._negative_keys: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []

    def add_rows(self, places: np.ndarray, rows: pa.Table) -> None:
        """Take rows of the dataset into account."""
        import pyarrow.compute as pc

        negatives = rows["negatives"].combine_chunks()
        known = self._instructions
        under = [known.setdefault(text, len(known)) for text in rows["query_instruction"].to_pylist()]
        self._places.append(places)
        self._instruction_of_row.append(np.array(under, dtype=np.int64))
        self._query_keys.append(self.queries.add(rows["query"].to_pylist()))
        self._positive_keys.append(self.others.add(rows["positive"].to_pylist(), unless=self.corpus.seen))
        self._negative_keys.append(self.others.add(negatives.flatten().to_pylist(), unless=self.corpus.seen))
        self._counts.append(pc.list_value_length(negatives).to_numpy(zero_copy_only=False))

    def pool(self, name: str) -> Pool:
        corpus, others, queries = self.corpus.shelf(), self.others.shelf(), self.queries.shelf()
        query_of_row = queries.numbers(np.concatenate(self._query_keys))
        positive_of_row = _numbers(corpus, others, np.concatenate(self._positive_keys))
        numbered = np.unique(np.concatenate([corpus.forms, others.forms, queries.forms]), return_inverse=True)[1]
        forms, query_forms = np.split(numbered, [len(corpus) + len(others)])
        positives, starts = _positives(query_forms, query_of_row, positive_of_row)
        counts = np.concatenate(self._counts).astype(np.int64)
        return Pool(
            name=name,
            corpus=corpus,
            others=others,
            queries=queries,
            rows=np.concatenate(self._places),
            query_of_row=query_of_row,
            positive_of_row=positive_of_row,
            instructions=list(self._instructions),
            # of a query that stands under several, the first row's
            instruction_of_query=np.concatenate(self._instruction_of_row)[
                np.unique(query_of_row, return_index=True)[1]
            ],
            negatives=_numbers(corpus, others, np.concatenate(self._negative_keys)),
            negative_starts=np.concatenate([[0], np.cumsum(counts)]),
            forms=forms,
            query_forms=query_forms,
            positives=positives,
            positive_starts=starts,
        )


def _numbers(corpus: Shelf, others: Shelf, keys: np.ndarray) -> np.ndarray:
    inside, outside = corpus.numbers(keys), others.numbers(keys)
    return np.where(inside >= 0, inside, outside + len(corpus))


def _positives(
    query_forms: np.ndarray, query_of_row: np.ndarray, positive_of_row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Queries that are equal once normalised share their positives."""
    form = query_forms[query_of_row]
    order = np.lexsort((positive_of_row, form))
    form, document = form[order], positive_of_row[order]
    fresh = np.r_[True, (form[1:] != form[:-1]) | (document[1:] != document[:-1])]
    form, document = form[fresh], document[fresh]
    bounds = [np.searchsorted(form, query_forms, side=side) for side in ("left", "right")]
    return document, np.stack(bounds, axis=1)


def _pool_names(source: Manifest) -> Mapping[str, str]:
    """Source → pool, of a mix; empty for any other dataset, whose rows are all in the pool ""."""
    sources: dict[str, Any] = source.section.get("sources") or {}
    return {name: about.get("pool") or name for name, about in sources.items()}


def _retrieval(table: pa.Table, pool_of: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Pool → places of its retrieval rows in a part."""
    import pyarrow.compute as pc

    places = np.flatnonzero(pc.equal(table["task_type"], "retrieval").to_numpy())
    names = np.array([pool_of.get(name, "") for name in table["source"].take(places).to_pylist()], dtype=object)
    return {name: places[names == name] for name in sorted(set(names))}


def _passages(dataset: Path, wanted: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """(pool, passages) of a dataset's corpus, part by part, of the pools that are wanted."""
    import pyarrow.compute as pc

    progress, done = Progress("reading passages"), 0
    for table in read_tables(dataset / "corpus"):
        if "pool" not in table.column_names:
            yield "", table["text"].to_pylist()
        else:
            for name in wanted:
                yield name, table["text"].filter(pc.equal(table["pool"], name)).to_pylist()
        done += table.num_rows
        progress.update(done)
    progress.close()
