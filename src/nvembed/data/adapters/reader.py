"""One source, from where it lies to finished examples, with its lineage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
from nvembed.data.adapters.tally import Tally
from nvembed.data.example import SYMMETRIC, Example, Pair
from nvembed.data.files import Unusable, texts_of
from nvembed.recipe import Data, Place, Source, Table


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
    """

    def __init__(self, name: str, source: Source, data: Data) -> None:
        self.name, self.source, self.data = name, source, data
        self.tally = Tally()
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
        for pair in self._pairs(opened):
            self.tally.out += 1
            yield self._example(pair)
        self.tally.refuse_bad(opened.table, self.data.max_bad_rows)
        if not self.tally.out:
            dropped = ", ".join(f"{rule}: {number}" for rule, number in self.tally.dropped.items() if number)
            raise opened.table.fail(f"gives no example out of {self.tally.rows} rows ({dropped or 'it has no rows'})")

    def lineage(self) -> dict[str, Any]:
        """What the manifest, MLflow and the model card say of the source. Complete once `examples` is exhausted."""
        opened, tally = self.open(), self.tally
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

    def _pairs(self, opened: Opened) -> Iterator[Pair]:
        place, joined = opened.place, opened.joined
        if joined is not None:
            ids = self._capped(lambda tally: read_ids(joined, place, tally))
            yield from self._different(joined_texts(ids, joined, self.tally))
            return
        if place.shape not in ("labelled", "sets"):
            kept = self._capped(lambda tally: cast("Iterator[Texts]", self._rows(opened, tally)))
            yield from (record.pair for record in kept)
            return
        texts = LabelTexts(self.name, self.source)
        rule = self._label_rule()
        negatives, seed = self.data.example_negatives, self._seed

        def labelled(tally: Tally) -> Iterator[Labelled]:
            return usable(cast("Iterator[Labelled]", self._rows(opened, tally)), texts, tally)

        if rule == "example-based":
            yield from by_example(self._capped(labelled), negatives=negatives, seed=seed, tally=self.tally)
        else:
            classes = classes_of(labelled(Tally()), texts)
            yield from by_label_text(self._capped(labelled), classes, texts, negatives=negatives, seed=seed)

    def _rows(self, opened: Opened, tally: Tally) -> Iterator[Labelled | Texts]:
        return read_records(opened.table, opened.roles, opened.place, self.source, tally)

    def _capped(self, read: Any) -> Iterator[Any]:
        """Records, each once, no more than the cap; two passes over the rows if there is one."""
        cap, limit = self.source.cap, None
        if cap is not None:
            limit = limit_of((rank(self._seed, record.key) for record in read(Tally())), cap)
        seen = Seen()
        for record in read(self.tally):
            number = rank(self._seed, record.key)
            if limit is not None and number > limit:
                self.tally.left_by_cap += 1
            elif seen.add(number):
                yield record
            else:
                self.tally.dropped["exact duplicate"] += 1

    def _different(self, records: Iterable[Texts]) -> Iterator[Pair]:
        """Pairs whose two texts are not the same."""
        for record in records:
            if record.pair.query == record.pair.positive:
                self.tally.dropped["positive equal to its query"] += 1
            else:
                yield record.pair

    def _label_rule(self) -> str:
        """The recipe's; a labelled fallback of an unlabelled source goes by what its task is."""
        given = self.data.label_rule or self.source.label_rule
        return given or ("label-text" if self.source.task_type == "classification" else "example-based")

    def _labels_are_documents(self) -> bool:
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
            documents = instruction if source.task_type in SYMMETRIC and not self._labels_are_documents() else ""
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
