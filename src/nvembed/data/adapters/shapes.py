"""Rows that hold their texts: pairs, triplets and lists; graded pairs; texts with a label, flat or in sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from nvembed.data.adapters.columns import Roles, find_roles
from nvembed.data.adapters.tables import OpenTable
from nvembed.data.adapters.tally import Tally
from nvembed.data.example import Pair
from nvembed.data.files import Unusable, texts_of
from nvembed.data.rows import Wanted
from nvembed.recipe import Place, Source

Row = dict[str, Any]
Record = TypeVar("Record")

DEFAULTS: Mapping[str, dict[str, str]] = {
    "pairs": {"query": "query", "positive": "positive", "negatives": "negative|negative_*|negatives"},
    "triplets": {"query": "anchor|query", "positive": "positive", "negatives": "negative|negative_*"},
    "lists": {"query": "query", "positive": "pos|positive", "negatives": "neg|negative"},
    "graded": {"first": "sentence1", "second": "sentence2", "score": "score"},
    "labelled": {"text": "text", "label": "label", "label_text": "label_text"},
    "sets": {"text": "sentences", "label": "labels"},
}
"""Columns of each shape where the recipe names none."""

_OPTIONAL: Mapping[str, frozenset[str]] = {
    "pairs": frozenset({"negatives"}),
    "lists": frozenset({"negatives"}),
    "labelled": frozenset({"label_text"}),
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and its class; `name` is the class in words where the row has it."""

    text: str
    label: str
    name: str = ""

    @property
    def key(self) -> str:
        return f"{self.label}\0{self.text}"


@dataclass(frozen=True, slots=True)
class Texts:
    """A pair with its texts, and the number of its row."""

    pair: Pair
    row: int = 0

    @property
    def key(self) -> str:
        return f"{self.pair.query}\0{self.pair.positive}"


def find_shape_roles(table: OpenTable, place: Place, *, guessed: bool) -> Roles:
    """The columns of a shape whose rows hold their texts. Raises UserError as `find_roles` does."""
    return find_roles(
        table,
        place.columns,
        DEFAULTS[place.shape],
        _OPTIONAL.get(place.shape, frozenset()),
        guessed=guessed,
    )


def read_records(
    table: OpenTable, roles: Roles, place: Place, source: Source, tally: Tally, wanted: Wanted | None = None
) -> Iterator[Labelled | Texts]:
    """The records of every usable row, in the files' order; `tally` counts rows, unusable ones and what rules drop."""
    return each_row(table, roles, tally, wanted, lambda row: _records(row, roles, place, source, tally))


def each_row(
    table: OpenTable, roles: Roles, tally: Tally, wanted: Wanted | None, make: Callable[[Row], Iterable[Record]]
) -> Iterator[Record]:
    """What `make` gives of every wanted row, in the files' order; `tally` counts the rows, and those it refuses."""
    for row in table.rows(roles.columns, wanted):
        tally.row += 1
        if row is None:
            continue
        tally.begin()
        try:
            if isinstance(row, str):
                raise Unusable(row)
            records = list(make(row))
        except Unusable as reason:
            tally.bad(str(reason))
            continue
        yield from records


def _records(
    row: Mapping[str, Any], roles: Roles, place: Place, source: Source, tally: Tally
) -> Iterator[Labelled | Texts]:
    if place.shape == "graded":
        yield from _graded(row, roles, source, tally)
    elif place.shape == "sets":
        yield from _set(row, roles, source)
    elif place.shape == "labelled":
        text = texts_of(roles.get("text", row), "text")
        name = texts_of(roles.get("label_text", row), "label_text", optional=True)
        label = label_of(roles.get("label", row), first=source.label_first)
        yield Labelled("\n".join(text), label, name[0] if name else "")
    else:
        yield from _pairs(row, roles, tally)


def _pairs(row: Mapping[str, Any], roles: Roles, tally: Tally) -> Iterator[Texts]:
    queries = texts_of(roles.get("query", row), "query")
    positives = texts_of(roles.get("positive", row), "positive")
    negatives = texts_of(roles.get("negatives", row), "negatives", optional=True)
    kept = tuple(text for text in negatives if text not in positives and text not in queries)
    for query, positive in product(queries, positives):
        if query == positive:
            tally.drop("positive equal to its query")
        else:
            yield Texts(Pair(query, positive, kept), tally.row)


def _graded(row: Mapping[str, Any], roles: Roles, source: Source, tally: Tally) -> Iterator[Texts]:
    (first,) = texts_of(roles.get("first", row), "first text")
    (second,) = texts_of(roles.get("second", row), "second text")
    score = number_of(roles.get("score", row), "score")
    assert source.min_score is not None
    if score < source.min_score:
        tally.drop(f"score below {source.min_score:g}")
    elif first == second:
        tally.drop("positive equal to its query")
    else:
        yield Texts(Pair(first, second), tally.row)
        if source.both_directions:
            yield Texts(Pair(second, first), tally.row)


def _set(row: Mapping[str, Any], roles: Roles, source: Source) -> Iterator[Labelled]:
    texts, labels = roles.get("text", row), roles.get("label", row)
    if isinstance(texts, str):  # the flat form of later revisions
        texts, labels = [texts], [labels]
    if not isinstance(texts, list) or not isinstance(labels, list):
        raise Unusable("no list of texts and no list of labels")
    if len(texts) != len(labels):
        raise Unusable(f"{len(texts)} texts but {len(labels)} labels")
    for text, label in zip(texts, labels, strict=True):
        for one in texts_of(text, "text", optional=True):
            yield Labelled(one, label_of(label, first=source.label_first))


def label_of(value: Any, *, first: bool) -> str:
    """A label as text. Raises Unusable if there is none, or more than one where the recipe expects one."""
    if isinstance(value, list):
        if not value or (len(value) > 1 and not first):
            raise Unusable("no label" if not value else f"{len(value)} labels; label_first would take the first")
        value = value[0]
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int):
        raise Unusable("no label" if value is None else f"label is a {type(value).__name__}")
    text = str(value).strip()
    if first and text:
        text = text.split()[0]
    if not text:
        raise Unusable("empty label")
    return text


def number_of(value: Any, column: str) -> float:
    """A number, written as one or as text. Raises Unusable if it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise Unusable(f"no {column}" if value is None else f"{column} is no number") from None
    if number != number:
        raise Unusable(f"{column} is no number")
    return number
