"""What became of a source's rows: read, unusable, dropped by which rule, used."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from nvembed.data.adapters.tables import OpenTable

_LISTED = 5


@dataclass
class Tally:
    """Counts of one reading of a source."""

    rows: int = 0
    unusable: int = 0
    out: int = 0
    left_by_cap: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)

    def bad(self, reason: str) -> None:
        """Count a row that cannot be used; `rows` is its number, from 1."""
        self.unusable += 1
        if len(self.reasons) < _LISTED:
            self.reasons.append(f"row {self.rows}: {reason}")

    def refuse_bad(self, table: OpenTable, most: float) -> None:
        """Raises UserError if no row can be used, or a larger share cannot than `most`."""
        first = "; ".join(self.reasons[:3])
        if self.rows and self.unusable >= self.rows:
            raise table.fail(f"none of its {self.rows} rows can be used ({first})")
        if self.unusable > most * self.rows:
            raise table.fail(
                f"{self.unusable} of {self.rows} rows cannot be used ({first}), more than data.max_bad_rows = "
                f"{most:g} allows"
            )
