"""What a mining run found: one record a row, and a tally over all candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nvembed.mining.rules import DROPS


@dataclass(frozen=True)
class MinedRow:
    """What was found for one retrieval row. Scores are the teacher's cosines, in the order of the texts.

    `own` counts the row's own negatives, which stand first; `ceiling` is what mined scores lie below.
    """

    negatives: tuple[str, ...]
    scores: list[float]
    own: int
    positive_score: float
    ceiling: float
    positive_first: bool


@dataclass
class Tally:
    """What became of all candidates: `dropped` by the first rule that dropped them; `left` passed every rule.

    `own_dropped` counts negatives that came with the data but equal their query or a positive of it.
    """

    candidates: int = 0
    left: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROPS, 0))
    own_dropped: int = 0
    depth: int = 0
    corpus: int = 0
    teacher: str = ""


def count_short(rows: Sequence[MinedRow], wanted: int) -> int:
    """How many rows end with fewer negatives than asked."""
    return sum(len(row.negatives) < wanted for row in rows)
