"""What a mining run found, over all pools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.mining.rules import DROPS

if TYPE_CHECKING:
    from nvembed.mining.pools import Pool
    from nvembed.mining.selection import Chosen
    from nvembed.recipe import Mining


@dataclass
class Tally:
    """What became of all candidates, of every teacher.

    Attributes:
        candidates, left: looked at; passed every rule. dropped: by the first rule that dropped them.
        own_dropped: negatives that came with the data but equal their query or a positive of it.
        depths: depth of search → queries that were settled there.
        corpus: passages searched. teachers: what scored.
    """

    candidates: int = 0
    left: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROPS, 0))
    own_dropped: int = 0
    depths: Counter[int] = field(default_factory=Counter)
    corpus: int = 0
    teachers: list[str] = field(default_factory=list)

    @property
    def depth(self) -> int:
        """The deepest search."""
        return max((depth for depth, queries in self.depths.items() if queries), default=0)

    def count(self, counts: Mapping[str, int]) -> None:
        """Add what `rules.Choice` counts."""
        self.candidates += counts["candidates"]
        self.left += counts["left"]
        for name in DROPS:
            self.dropped[name] += counts[name]


class Mined:
    """Pools and what was chosen in each, counted as it comes."""

    def __init__(self, mining: Mining) -> None:
        self.mining, self.tally = mining, Tally()
        self.pools: list[tuple[Pool, Chosen]] = []
        self.rows = self.short = self.without = self.negatives = self.own = self.positives_first = 0

    def add(self, pool: Pool, chosen: Chosen) -> None:
        """Take a pool into account."""
        self.pools.append((pool, chosen))
        found = (chosen.documents >= 0).sum(axis=1)
        self.rows += len(pool.rows)
        self.short += int((found < self.mining.num_negatives).sum())
        self.without += int((found == 0).sum())
        self.negatives += int(found.sum())
        self.own += int(chosen.own.sum())
        self.positives_first += int(chosen.positive_first.sum())

    @property
    def positive_scores(self) -> np.ndarray:
        """Of all rows."""
        return np.concatenate([np.empty(0, np.float32), *(chosen.positive_scores for _, chosen in self.pools)])

    @property
    def negative_scores(self) -> np.ndarray:
        """Of all negatives."""
        scores = [chosen.scores[chosen.documents >= 0] for _, chosen in self.pools]
        return np.concatenate([np.empty(0, np.float32), *scores])

    def hardest(self, count: int) -> list[Pair]:
        """Mined negatives of the highest scores: where an unlabelled answer is likeliest to have come through."""
        found = [(_first_mined(chosen), 0.0) for _, chosen in self.pools]
        return self._first(count, found)

    def suspects(self, count: int) -> list[Pair]:
        """Passages that the score rule dropped, those highest above their positive first: likely false negatives."""
        found = [((chosen.suspect, chosen.suspect_scores), chosen.positive_scores) for _, chosen in self.pools]
        return self._first(count, found)

    def _first(self, count: int, found: list[tuple[tuple[np.ndarray, np.ndarray], Any]]) -> list[Pair]:
        """Of each pool (documents, scores) of its rows and what a score is measured from: the greatest differences."""
        pairs: list[tuple[float, Pair]] = []
        for (pool, chosen), ((documents, scores), above) in zip(self.pools, found, strict=True):
            order = np.where(documents >= 0, above - scores, np.inf)
            for row in np.argsort(order, kind="stable")[:count]:
                if not np.isfinite(order[row]):
                    break
                texts = pool.documents_of(np.array([pool.positive_of_row[row], documents[row]]))
                query = pool.queries.texts(pool.query_of_row[row : row + 1])[0]
                pair = Pair(query, texts[0], float(chosen.positive_scores[row]), texts[1], float(scores[row]))
                pairs.append((float(order[row]), pair))
        return [pair for _, pair in sorted(pairs, key=lambda item: item[0])[:count]]


@dataclass(frozen=True)
class Pair:
    """A passage beside its query's positive, with the teacher's scores."""

    query: str
    positive: str
    positive_score: float
    passage: str
    score: float


def _first_mined(chosen: Chosen) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the first negative that did not come with the data, -1 and NaN if there is none."""
    width = chosen.documents.shape[1]
    at = np.minimum(chosen.own, width - 1)[:, None]
    there = chosen.own < width
    documents = np.where(there, np.take_along_axis(chosen.documents, at, axis=1)[:, 0], -1)
    return documents, np.take_along_axis(chosen.scores, at, axis=1)[:, 0]
