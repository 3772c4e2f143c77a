"""Which column plays which role: as the recipe says, checked against what is there; guesses are told.

A recipe's entry may be `a|b` (the first that is there), `a+b` (texts joined by a space, as MTEB joins title and text),
`a.b` (field b of a, of every item if a is a list) and `neg_*` (every column that fits, in the order of its numbers).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nvembed.data.adapters.tables import OpenTable

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "question", "anchor", "claim", "title", "text1", "sentence1", "premise", "prompt", "q"),
    "positive": ("positive", "pos", "answer", "passage", "document", "context", "text2", "body", "positive_passages"),
    "negatives": ("negatives", "negative", "neg", "negative_*", "hypothesis_neg", "negative_passages"),
    "text": ("text", "sentence", "sentences", "title", "content", "query", "passage"),
    "label": ("label", "labels", "category", "categories", "label_text", "intent", "subreddit", "class"),
    "label_text": ("label_text", "label_name"),
    "first": ("sentence1", "text1", "sentence_1", "anchor"),
    "second": ("sentence2", "text2", "sentence_2", "positive"),
    "score": ("score", "similarity_score", "relevance", "label"),
    "query_id": ("query-id", "query_id", "question_id", "qid"),
    "positive_ids": ("corpus-id", "corpus_id", "positive_ids", "relevant_passage_ids", "pos_doc"),
    "negative_ids": ("negative_ids", "neg_doc"),
    "candidate_ids": ("document_ids", "candidate_ids"),
    "scores": ("scores",),
    "id": ("id", "_id", "docid", "document_id", "qid", "pid"),
}
"""Names under which a role is known in public datasets; looked for where the recipe's own is from memory."""

_KINDS: Mapping[str, tuple[str, ...]] = {
    "query": ("text", "texts"),
    "positive": ("text", "texts"),
    "negatives": ("text", "texts", "nothing"),
    "text": ("text", "texts"),
    "label": ("text", "number", "texts", "numbers"),
    "label_text": ("text", "texts"),
    "first": ("text",),
    "second": ("text",),
    "score": ("number", "text"),
    "scores": ("numbers",),
    "query_id": ("text", "number"),
    "positive_ids": ("text", "number", "texts", "numbers"),
    "negative_ids": ("text", "number", "texts", "numbers", "nothing"),
    "candidate_ids": ("texts", "numbers"),
    "id": ("text", "number"),
}


@dataclass(frozen=True)
class Reading:
    """How a role is read: from these columns (several are joined, or are the numbered ones), along these fields."""

    columns: tuple[str, ...]
    path: tuple[str, ...] = ()
    numbered: bool = False

    def __call__(self, row: Mapping[str, Any]) -> Any:
        """The role's value in a row; None if it is not there."""
        values = [_inside(row.get(column), self.path) for column in self.columns]
        if self.numbered:
            return [value for value in values if value]
        if len(values) == 1:
            return values[0]
        texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
        return " ".join(texts) if texts else None

    def __str__(self) -> str:
        inside = "".join(f".{part}" for part in self.path)
        if self.numbered:
            return f"{self.columns[0]}…{self.columns[-1]}" if len(self.columns) > 1 else self.columns[0]
        return "+".join(f"{column}{inside}" for column in self.columns)


@dataclass
class Roles:
    """The readings of a table by role, and what is to be said of how they were found."""

    readings: dict[str, Reading]
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> set[str]:
        """Every column that is read."""
        return {column for reading in self.readings.values() for column in reading.columns}

    def get(self, role: str, row: Mapping[str, Any]) -> Any:
        """A role's value in a row; None where the role or its value is not there."""
        reading = self.readings.get(role)
        return reading(row) if reading is not None else None


def find_roles(
    table: OpenTable,
    said: Mapping[str, str],
    defaults: Mapping[str, str],
    optional: frozenset[str] = frozenset(),
    *,
    guessed: bool,
) -> Roles:
    """Check the columns of a table.

    Args:
        table: read at its beginning.
        said: role → the recipe's entry.
        defaults: role → entry where the recipe says nothing.
        optional: roles that may be missing if the recipe does not name them.
        guessed: whether the recipe's columns are from memory, so that a role's other names may stand in.

    Raises:
        UserError: a role's column is not there, or holds something else; the columns that are there are named.
    """
    if unknown := sorted(set(said) - set(defaults)):
        raise table.fail(f"columns names the role {unknown[0]!r}; known here: {', '.join(sorted(defaults))}")
    rows = table.peek()
    there = list(dict.fromkeys(name for row in rows for name in row))
    roles = Roles({})
    for role, default in defaults.items():
        entry = said.get(role, default)
        reading = _first_there(entry, there, rows)
        if reading is None and (guessed or role not in said):
            reading = next((one for name in OTHER_NAMES[role] if (one := _first_there(name, there, rows))), None)
            if reading is not None and role not in optional:
                roles.notes.append(f"{role}: found {str(reading)!r} where {entry!r} was guessed")
        if reading is None:
            if role in optional and role not in said:
                continue
            raise table.fail(
                f"no column {entry!r} for {role}; columns there: {', '.join(there[:30])}; "
                f"name it with data.sources.{table.source}.columns.{role}"
            )
        _check_kind(table, role, reading, rows)
        roles.readings[role] = reading
    return roles


def kind_of(value: Any) -> str:
    """`text`, `number`, `texts`, `numbers`, `nothing` or the name of another type."""
    if value is None or value == []:
        return "nothing"
    if isinstance(value, list):
        kinds = {kind_of(item) for item in value} - {"nothing"}
        return f"{kinds.pop()}s" if len(kinds) == 1 else "a mixed list"
    if isinstance(value, str):
        return "text"
    return "number" if isinstance(value, int | float) else f"a {type(value).__name__}"


def _check_kind(table: OpenTable, role: str, reading: Reading, rows: Sequence[Mapping[str, Any]]) -> None:
    kinds = [kind_of(reading(row)) for row in rows]
    allowed = {*_KINDS[role], "nothing"}
    wrong = next((kind for kind in kinds if kind not in allowed), None)
    if wrong is not None and sum(kind not in allowed for kind in kinds) * 2 > len(kinds):
        raise table.fail(f"column {str(reading)!r} for {role} holds {wrong}, not {' or '.join(_KINDS[role])}")
    if set(kinds) == {"nothing"} and "nothing" not in _KINDS[role]:
        raise table.fail(f"column {str(reading)!r} for {role} is empty in the first {len(rows)} rows")


def _first_there(entry: str, there: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Reading | None:
    return next((one for part in entry.split("|") if (one := _reading(part.strip(), there, rows))), None)


def _reading(entry: str, there: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Reading | None:
    if entry in there:
        return Reading((entry,))
    if "*" in entry:
        fits = sorted((name for name in there if fnmatch.fnmatchcase(name, entry)), key=_number)
        return Reading(tuple(fits), numbered=True) if fits else None
    if "+" in entry:
        columns = tuple(part.strip() for part in entry.split("+"))
        return Reading(columns) if all(column in there for column in columns) else None
    column, *path = entry.split(".")
    if path and column in there and any(_inside(row.get(column), path) not in (None, []) for row in rows):
        return Reading((column,), tuple(path))
    return None


def _number(name: str) -> tuple[int, str]:
    digits = re.search(r"\d+$", name)
    return (int(digits[0]) if digits else 0, name)


def _inside(value: Any, path: Sequence[str]) -> Any:
    """Field after field: of an object the field, of a list what its items have."""
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit():
            value = value[int(part)] if int(part) < len(value) else None
        elif isinstance(value, list):
            value = [item.get(part) for item in value if isinstance(item, dict)]
        else:
            return None
    return value
