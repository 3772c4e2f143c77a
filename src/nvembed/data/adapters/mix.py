"""A recipe's mix as a whole: which sources are read, which fall out and why, and whether all of them can be had."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import note, track
from nvembed.data.adapters.joined import JOINED_DEFAULTS
from nvembed.data.adapters.reader import SourceReader
from nvembed.data.adapters.shapes import DEFAULTS as SHAPE_DEFAULTS
from nvembed.recipe import refused_sources, what_falls_out

if TYPE_CHECKING:
    from nvembed.data.example import Example
    from nvembed.recipe import Data, Source


@dataclass
class SourceState:
    """What the check found of one source. `state` is ok, left out, or failed; `says` is one line a finding."""

    name: str
    source: Source
    state: str
    place: str = ""
    revision: str = ""
    license_on_card: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    digest: str = ""
    rows: int | None = None
    examples: int | None = None
    first: Example | None = None
    says: list[str] = field(default_factory=list)


@dataclass
class MixCheck:
    """The state of every source of a mix."""

    states: list[SourceState]

    @property
    def failed(self) -> list[SourceState]:
        """Those that cannot be had as the recipe has them."""
        return [state for state in self.states if state.state == "failed"]

    @property
    def digest(self) -> str:
        """What names the content of all sources that are read."""
        return digest_json({state.name: state.digest for state in self.states if state.state == "ok"})


def open_mix(data: Data) -> list[SourceReader]:
    """Readers of the sources that are read, by name; says which are left out, with their share of the mix.

    Nothing is looked up yet: each reader does that when it is opened.
    """
    out = left_out(data)
    if said := what_falls_out(data.sources, data.forbid_licenses):
        note(said)
    for name, reason in out.items():
        if data.sources[name].synthesis:
            note(f"source {name} is not read: {reason}")
    return [SourceReader(name, source, data) for name, source in sorted(data.sources.items()) if name not in out]


def left_out(data: Data) -> dict[str, str]:
    """Name → reason for every source that is not read."""
    reasons = {
        item.name: f"licence {item.license} is refused by {item.pattern!r}"
        for item in refused_sources(data.sources, data.forbid_licenses)
    }
    for name, source in data.sources.items():
        if source.synthesis:
            reasons.setdefault(name, "the synthesis section writes it, where that is on")
    return dict(sorted(reasons.items()))


def expected_columns(source: Source) -> dict[str, str]:
    """Role → column as the recipe has it, its shape's own names where it says nothing."""
    if source.synthesis:
        return {}
    defaults = {**SHAPE_DEFAULTS, **JOINED_DEFAULTS}[source.shape]
    return {**defaults, **source.columns}


def check_mix(data: Data, *, read: bool = False) -> MixCheck:
    """Try every source: is it there, in this revision, with these columns, under this licence.

    Args:
        data: a `data` section whose source is `mix`.
        read: read every source through and count; otherwise only its first rows are looked at.

    A source that fails does not end the check; it is listed with the line that a run would end with.
    """
    out, states = left_out(data), []
    if not read:  # what a look finds broken a second look need not wait for
        data = data.model_copy(update={"download_attempts": 1})
    for name, source in track(sorted(data.sources.items()), "trying sources"):
        if name in out:
            states.append(SourceState(name, source, "left out", says=[out[name]]))
        else:
            states.append(_state(SourceReader(name, source, data), read=read))
    return MixCheck(states)


def _state(reader: SourceReader, *, read: bool) -> SourceState:
    state, data = SourceState(reader.name, reader.source, "ok"), reader.data
    try:
        opened = reader.open()
        state.place, state.revision = opened.table.where, opened.table.revision
        state.license_on_card, state.digest = opened.table.license, opened.digest
        state.columns, state.says = opened.columns, list(opened.notes)
        if read:
            examples = reader.examples()
            state.first = next(iter(islice(examples, 1)), None)
            for _ in examples:
                pass
            counts = reader.tally.whole
            state.rows, state.examples = counts.rows, counts.out
            dropped = {rule: number for rule, number in sorted(counts.dropped.items()) if number}
            state.says += [f"{rule}: {number}" for rule, number in dropped.items()]
    except UserError as error:
        state.state, state.says = "failed", [str(error)]
        return state
    _compare(state, reader.source, on_hub=data.hub_mirror is None)
    return state


def _compare(state: SourceState, source: Source, *, on_hub: bool) -> None:
    """Say what the recipe has otherwise than the dataset: its licence, its number of rows, a commit to pin."""
    card = state.license_on_card
    if card is not None and card.lower() not in source.license.lower():
        state.says.append(f"the card's licence is {card}, the recipe's {source.license}")
    if on_hub and source.repo is not None and source.revision is None:
        state.says.append(f"not pinned; its newest commit is {state.revision}")
    if on_hub and state.rows is not None and source.rows and abs(state.rows - source.rows) > 0.02 * source.rows:
        state.says.append(f"{state.rows:,} rows, where the recipe expects {source.rows:,}")
