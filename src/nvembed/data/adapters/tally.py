"""What became of a source's rows: read, unusable, dropped by which rule, used; in all and by block of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from nvembed.core.errors import UserError

_LISTED = 5


@dataclass
class Counts:
    """Counts of some rows."""

    rows: int = 0
    unusable: int = 0
    out: int = 0
    left_by_cap: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)

    @classmethod
    def sum(cls, parts: Iterable[Counts]) -> Counts:
        """All of them together, and the first reasons."""
        whole = cls()
        for part in parts:
            whole.rows += part.rows
            whole.unusable += part.unusable
            whole.out += part.out
            whole.left_by_cap += part.left_by_cap
            whole.dropped.update(part.dropped)
            whole.reasons += part.reasons[: _LISTED - len(whole.reasons)]
        return whole

    @classmethod
    def of_json(cls, tree: dict[str, Any]) -> Counts:
        """Back from `json`."""
        return cls(**{**tree, "dropped": Counter(tree["dropped"])})

    @property
    def json(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**asdict(self), "dropped": dict(self.dropped)}

    def refuse_bad(self, fail: Callable[[str], UserError], most: float) -> None:
        """Raises UserError if no row can be used, or a larger share cannot than `most`."""
        first = "; ".join(self.reasons[:3])
        if self.rows and self.unusable >= self.rows:
            raise fail(f"none of its {self.rows} rows can be used ({first})")
        if self.unusable > most * self.rows:
            raise fail(
                f"{self.unusable} of {self.rows} rows cannot be used ({first}), more than data.max_bad_rows = "
                f"{most:g} allows"
            )

    def refuse_nothing(self, fail: Callable[[str], UserError]) -> None:
        """Raises UserError if no example came of the rows."""
        if not self.out:
            rules = ", ".join(f"{rule}: {number}" for rule, number in sorted(self.dropped.items()) if number)
            raise fail(f"gives no example out of {self.rows} rows ({rules or 'it has no rows'})")


class Tally:
    """Counts of one reading of a source, by blocks of rows.

    Attributes:
        row: the number, from 1, of the row that was read last.
        blocks: number of a block → its counts.
    """

    def __init__(self, block_rows: int | None = None) -> None:
        self.row = 0
        self.blocks: dict[int, Counts] = {}
        self._block_rows = block_rows
        self._number = 0
        self.now = self.blocks[0] = Counts()

    def begin(self) -> None:
        """A row is read: the one at `row`."""
        self.at(self.row)
        self.now.rows += 1

    def at(self, row: int) -> None:
        """What is counted from now on belongs to the block of this row."""
        number = (row - 1) // self._block_rows if self._block_rows else 0
        if number != self._number:
            self._number, self.now = number, self.blocks.setdefault(number, Counts())

    def bad(self, reason: str) -> None:
        """Count the present row as one that cannot be used."""
        self.now.unusable += 1
        if len(self.now.reasons) < _LISTED:
            self.now.reasons.append(f"row {self.row}: {reason}")

    def drop(self, rule: str) -> None:
        """Count a record that a rule leaves out."""
        self.now.dropped[rule] += 1

    @property
    def whole(self) -> Counts:
        """The counts of all blocks."""
        return Counts.sum(self.blocks[number] for number in sorted(self.blocks))
