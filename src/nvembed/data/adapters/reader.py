"""One source, from where it lies to finished examples, with its lineage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.data.adapters.columns import Roles, find_roles
from nvembed.data.adapters.joined import JOINED_DEFAULTS, Joined, joined_texts, open_joined, read_ids
from nvembed.data.adapters.labelling import LabelTexts, by_example, by_label_text, classes_of, usable
from nvembed.data.adapters.sampling import Seen, limit_of, rank
from nvembed.data.adapters.shapes import Labelled, Texts, find_shape_roles, read_records
from nvembed.data.adapters.tables import OpenTable, open_table
from nvembed.data.adapters.tally import Counts, Tally
from nvembed.data.example import SYMMETRIC, Example, Pair
from nvembed.data.files import Unusable, texts_of
from nvembed.data.rows import Wanted
from nvembed.recipe import Data, Place, Source, Table

NO_LIMIT = (1 << 64) - 1
"""The rank that every record is within."""


@dataclass
class Opened:
    """A source's place, found and checked.

    Attributes:
        table: the rows; `joined` has the other tables too, where there are others.
        notes: what was found otherwise than the recipe guesses, and the fallback if one is read.
    """

    place: Place
    table: OpenTable
    roles: Roles
    joined: Joined | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> dict[str, str]:
        """Role → column, as found."""
        return {role: str(reading) for role, reading in self.roles.readings.items()}

    @property
    def digest(self) -> str:
        """What names the content of all its tables."""
        joined = self.joined
        others = [table.digest for table in (joined.corpus, joined.queries) if table is not None] if joined else []
        return digest_json([self.table.digest, *others])


class SourceReader:
    """Reads a source; `examples` may be gone through again, and then starts anew.

    Attributes:
        tally: what became of the rows, complete once `examples` is exhausted.
        limit: the largest rank that the cap keeps; found by a pass over the rows unless it is set before.
    """

    def __init__(self, name: str, source: Source, data: Data) -> None:
        self.name, self.source, self.data = name, source, data
        self.tally = Tally()
        self.limit: int | None = None
        self.number_of_blocks = 0
        self._opened: Opened | None = None
        self._seed = f"{data.seed}/{name}"

    def open(self) -> Opened:
        """Find the source and check its columns; once.

        Raises:
            UserError: it is not there, or not as the recipe has it; the message names the source, and its fallbacks.
        """
        if self._opened is None:
            self._opened = self._first_that_opens()
        return self._opened

    def examples(self) -> Iterator[Example]:
        """The finished examples, in the order of the rows. Raises UserError if too many rows cannot be used."""
        opened = self.open()
        self.tally = Tally()
        for _, pair in self._pairs(opened, None):
            self.tally.now.out += 1
            yield self._example(pair)
        counts = self.tally.whole
        counts.refuse_bad(opened.table.fail, self.data.max_bad_rows)
        counts.refuse_nothing(opened.table.fail)

    @property
    def divisible(self) -> bool:
        """Whether its rows can be read in blocks, each by itself; drawing by class needs all of them."""
        return self.open().place.shape not in ("labelled", "sets")

    def blocks(self, block_rows: int, wanted: Callable[[int], bool]) -> Iterator[tuple[int, list[Example]]]:
        """Examples by block: its number and what its `block_rows` rows give, equal ones not yet told apart.

        Blocks come in their order, those that `wanted` leaves out do not come at all. Of a source that is not
        `divisible` a block is so many examples. `tally` then holds the counts of each block, complete when it comes,
        and `number_of_blocks` how many there are.
        """
        opened, held, given = self.open(), dict[int, list[Example]](), set[int]()
        self.tally = Tally(block_rows if self.divisible else None)
        rows = (lambda row: wanted((row - 1) // block_rows)) if self.divisible else None

        def ended(before: float) -> Iterator[tuple[int, list[Example]]]:
            known = {*held, *(self.tally.blocks if self.divisible else ())}
            for number in sorted(known - given):
                if number < before and wanted(number):
                    given.add(number)
                    yield number, held.pop(number, [])

        for row, pair in self._pairs(opened, rows):
            number = (row - 1) // block_rows
            if number not in held and wanted(number):
                yield from ended(number)
                held[number] = []
            self.tally.at(row)
            self.tally.now.out += 1
            if number in held:
                held[number].append(self._example(pair))
        yield from ended(math.inf)
        self.number_of_blocks = -(-(self.tally.row if self.divisible else self.tally.whole.out) // block_rows)

    def lineage(self) -> dict[str, Any]:
        """What the manifest, MLflow and the model card say of the source. Complete once `examples` is exhausted."""
        return self.lineage_of(self.tally.whole)

    def lineage_of(self, tally: Counts) -> dict[str, Any]:
        """The lineage with these counts."""
        opened = self.open()
        return {
            "name": self.name,
            "stages": list(self.source.stages),
            "task_type": self.source.task_type,
            "place": opened.table.where,
            "revision": opened.table.revision,
            "license": self.source.license,
            "license_on_card": opened.table.license,
            "rows": tally.rows,
            "unusable_rows": tally.unusable,
            "left_by_cap": tally.left_by_cap,
            "dropped": {rule: number for rule, number in sorted(tally.dropped.items()) if number},
            "examples": tally.out,
            "digest": opened.digest,
            "notes": list(opened.notes),
        }

    def held_out_texts(self) -> Iterator[str]:
        """The texts of the source's `held_out` tables, which no training text may match; read like any table."""
        for table in self.source.held_out:
            whole = table if table.repo or table.path else _beside(self.source, table)
            opened = open_table(self.name, whole, self.data)
            text = {"text": whole.columns.get("text", "text|sentences|sentence|sentence1")}
            roles = find_roles(opened, text, text, guessed=True)
            for row in opened.rows(roles.columns):
                if isinstance(row, dict):
                    try:
                        yield from texts_of(roles.get("text", row), "text", optional=True)
                    except Unusable:
                        continue

    def _first_that_opens(self) -> Opened:
        try:
            return self._open(self.source, guessed=_guessed(self.source))
        except UserError as error:
            first = error
        places = [(place, _named(place)) for place in self.source.fallback]
        if places and not self.data.allow_fallback:
            names = ", ".join(name for _, name in places)
            raise UserError(f"{first}; with data.allow_fallback=true {names} would be read in its place") from first
        for place, name in places:
            try:
                opened = self._open(place, guessed=True)
            except UserError as error:
                first = UserError(f"{first}; its fallback: {error}")
                continue
            said = f"source {self.name}: reads its fallback {name}, since {first}"
            note(said)
            opened.notes.insert(0, said)
            return opened
        raise first

    def _open(self, place: Place, *, guessed: bool) -> Opened:
        if place.shape in JOINED_DEFAULTS:
            joined = open_joined(self.name, place, self.data, guessed=guessed)
            return Opened(place, joined.rows, joined.roles, joined, list(joined.notes))
        table = open_table(self.name, place, self.data)
        roles = find_shape_roles(table, place, guessed=guessed)
        return Opened(place, table, roles, None, list(roles.notes))

    def _pairs(self, opened: Opened, wanted: Wanted | None) -> Iterator[tuple[int, Pair]]:
        """Pairs with the numbers of their rows; of labelled rows, with their own numbers."""
        place, joined = opened.place, opened.joined
        if joined is not None:
            ids = self._capped(lambda tally, rows=None: read_ids(joined, place, tally, rows), wanted)
            yield from self._different(joined_texts(ids, joined, self.tally))
        elif place.shape not in ("labelled", "sets"):
            kept = self._capped(
                lambda tally, rows=None: cast("Iterator[Texts]", self._rows(opened, tally, rows)), wanted
            )
            yield from ((record.row, record.pair) for record in kept)
        else:
            yield from enumerate(self._labelled_pairs(opened), 1)

    def _labelled_pairs(self, opened: Opened) -> Iterator[Pair]:
        texts = LabelTexts(self.name, self.source)
        rule = self._label_rule()
        negatives, seed = self.data.example_negatives, self._seed

        def labelled(tally: Tally) -> Iterator[Labelled]:
            return usable(cast("Iterator[Labelled]", self._rows(opened, tally, None)), texts, tally)

        if rule == "example-based":
            yield from by_example(self._capped(labelled, None), negatives=negatives, seed=seed, tally=self.tally)
        else:
            classes = classes_of(labelled(Tally()), texts)
            yield from by_label_text(self._capped(labelled, None), classes, texts, negatives=negatives, seed=seed)

    def _rows(self, opened: Opened, tally: Tally, wanted: Wanted | None) -> Iterator[Labelled | Texts]:
        return read_records(opened.table, opened.roles, opened.place, self.source, tally, wanted)

    def _capped(self, read: Any, wanted: Wanted | None) -> Iterator[Any]:
        """Records, no more than the cap; two passes over the rows if there is one.

        Each comes once, unless some rows alone are wanted: equal ones may then stand in rows that others read.
        """
        limit = None
        if self.source.cap is not None:
            if self.limit is None:
                ranks = (rank(self._seed, record.key) for record in read(Tally()))
                self.limit = limit_of(ranks, self.source.cap)
                self.limit = NO_LIMIT if self.limit is None else self.limit
            limit = self.limit
        seen = Seen()
        for record in read(self.tally) if wanted is None else read(self.tally, wanted):
            number = rank(self._seed, record.key) if limit is not None or wanted is None else 0
            if limit is not None and number > limit:
                self.tally.now.left_by_cap += 1
            elif wanted is not None or seen.add(number):
                yield record
            else:
                self.tally.drop("exact duplicate")

    def _different(self, records: Iterable[Texts]) -> Iterator[tuple[int, Pair]]:
        """Pairs whose two texts are not the same."""
        for record in records:
            if record.pair.query == record.pair.positive:
                self.tally.drop("positive equal to its query")
            else:
                yield record.row, record.pair

    def _label_rule(self) -> str:
        """The recipe's; a labelled fallback of an unlabelled source goes by what its task is."""
        given = self.data.label_rule or self.source.label_rule
        return given or ("label-text" if self.source.task_type == "classification" else "example-based")

    @property
    def labels_are_documents(self) -> bool:
        """Whether documents are labels' texts, which are of another kind than queries and take no instruction."""
        if self.open().place.shape in ("labelled", "sets"):
            return self._label_rule() == "label-text"
        return self.source.task_type == "classification"

    def _example(self, pair: Pair) -> Example:
        source = self.source
        instruction = source.instruction
        if instruction is None:
            instruction = self.data.instructions[source.task_type]
        documents = source.document_instruction
        if documents is None:
            documents = instruction if source.task_type in SYMMETRIC and not self.labels_are_documents else ""
        return Example.make(
            task=self.name,
            task_type=source.task_type,
            query=pair.query,
            positive=pair.positive,
            negatives=pair.negatives,
            instruction=instruction,
            document_instruction=documents,
            source=self.name,
            license=source.license,
        )


def _guessed(source: Source) -> bool:
    return source.known.get("columns") == "M"


def _named(place: Place) -> str:
    return place.path or f"{place.repo} {place.files or '/'.join(filter(None, (place.config, place.split)))}".strip()


def _beside(source: Source, table: Table) -> Table:
    """A table of the source's own dataset."""
    same = {"repo": source.repo, "path": source.path, "revision": source.revision}
    return table.model_copy(update={**same, "config": table.config or source.config})
