"""Which negatives each row gets: the rules over a teacher's candidates, deeper where they leave too few.

Queries are taken some at a time; those that fall short are searched again to twice the depth, until they have enough or
`max_depth` is reached. Memory holds the candidates of the queries in hand, and of all rows what was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nvembed.core.progress import Progress
from nvembed.mining.pools import Pool
from nvembed.mining.result import Tally
from nvembed.mining.rules import Near, choose, hash_noise, score_ceiling, softmax_order

if TYPE_CHECKING:
    from nvembed.recipe import Mining

QUERIES = 65_536
_ROWS = 4096  # that the rules look at together
_HELD = 2**24  # candidates held at once
NearText = Callable[[str, Sequence[str]], bool]
Order = Callable[[int, np.ndarray], np.ndarray]


class Scorer(Protocol):
    """A teacher on one pool."""

    @property
    def fingerprint(self) -> str:
        """Digest of the model, or what names the teacher."""

    def nearest(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Documents (q, m) int64 and scores (q, m) float32, best first, m at most `depth`; -1 where there are fewer."""

    def pair_scores(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """(q, m) float32, the score of each query with documents (q, m), candidates or not; -inf for a document -1."""


@dataclass
class Chosen:
    """What was found for the rows of a pool, in their order.

    Attributes:
        documents: (r, n) the negatives, own ones first, then mined ones, best first; -1 where there are fewer.
        scores: (r, n) float32, the first teacher's; NaN where there is none.
        own: (r,) how many are the row's own.
        positive_scores, ceilings: (r,) float32, by the first teacher.
        positive_first: (r,) bool, whether the nearest candidate that is not the query is a positive.
        suspect, suspect_scores: (r,) the nearest candidate that the score rule dropped, -1 and NaN if none.
    """

    documents: np.ndarray
    scores: np.ndarray
    own: np.ndarray
    positive_scores: np.ndarray
    ceilings: np.ndarray
    positive_first: np.ndarray
    suspect: np.ndarray
    suspect_scores: np.ndarray


def select(scorers: Sequence[Scorer], pool: Pool, mining: Mining, tally: Tally, near: NearText | None) -> Chosen:
    """Apply the rules with every teacher and take the union: each one's best in turn, none twice."""
    own = [_usable(pool, row, tally) for row in range(len(pool.rows))]
    found = [_Selection(scorer, pool, mining, tally, near, own).run() for scorer in scorers]
    first = found[0]
    if len(found) > 1:
        first.documents = _union(pool, found, first.documents.shape[1], mining.num_negatives)
    for rows in _blocks(np.arange(len(pool.rows)), _ROWS):
        documents = first.documents[rows]
        known = scorers[0].pair_scores(pool.query_of_row[rows], documents)
        first.scores[rows] = np.where(documents >= 0, known, np.nan)
    return first


class _Selection:
    """One teacher's choice."""

    def __init__(
        self,
        scorer: Scorer,
        pool: Pool,
        mining: Mining,
        tally: Tally,
        near: NearText | None,
        own: Sequence[np.ndarray],
    ) -> None:
        self.scorer, self.pool, self.mining, self.tally, self.near = scorer, pool, mining, tally, near
        self.own = own
        rows = len(pool.rows)
        shape = (rows, _width(pool, mining))
        self.chosen = Chosen(
            documents=np.full(shape, -1, dtype=np.int64),
            scores=np.full(shape, np.nan, dtype=np.float32),
            own=np.array([len(own) for own in self.own], dtype=np.int64),
            positive_scores=np.full(rows, np.nan, dtype=np.float32),
            ceilings=np.full(rows, np.inf, dtype=np.float32),
            positive_first=np.zeros(rows, dtype=bool),
            suspect=np.full(rows, -1, dtype=np.int64),
            suspect_scores=np.full(rows, np.nan, dtype=np.float32),
        )
        for row, numbers in enumerate(self.own):
            self.chosen.documents[row, : len(numbers)] = numbers

    def run(self) -> Chosen:
        """Go through all queries."""
        pool, order = self.pool, np.argsort(self.pool.query_of_row, kind="stable")
        ends = np.searchsorted(pool.query_of_row[order], np.arange(len(pool.queries) + 1))
        deepest = min(self.mining.max_depth, len(pool.corpus))
        progress = Progress("choosing negatives", len(pool.queries))
        for queries in _blocks(np.arange(len(pool.queries)), QUERIES):
            ceilings = score_ceiling(self.mining.method, self.mining.threshold, self._smallest_positive(queries))
            depth, left = min(self.mining.depth, deepest), queries
            while len(left):
                short = []
                for some in _blocks(left, max(1, _HELD // depth)):
                    documents, scores = self.scorer.nearest(some, depth)
                    rows = np.concatenate([order[ends[query] : ends[query + 1]] for query in some])
                    at = np.searchsorted(some, pool.query_of_row[rows])
                    for part in _blocks(np.arange(len(rows)), _ROWS):
                        row, place = rows[part], at[part]
                        lacks = self._choose(
                            row, documents[place], scores[place], ceilings[some[place] - queries[0]], depth < deepest
                        )
                        short.append(pool.query_of_row[row[lacks]])
                self.tally.depths[depth] += len(left)
                left = np.unique(np.concatenate(short))
                self.tally.depths[depth] -= len(left)
                depth = min(2 * depth, deepest)
            progress.update(int(queries[-1]) + 1)
        return self.chosen

    def _choose(
        self, rows: np.ndarray, documents: np.ndarray, scores: np.ndarray, ceilings: np.ndarray, deeper: bool
    ) -> np.ndarray:
        """Fill the rows; which of them have too few, where a `deeper` search may find more. Only the others count."""
        pool, chosen = self.pool, self.chosen
        query = pool.query_of_row[rows]
        forms = np.where(documents >= 0, pool.forms[documents], -1)
        own = [self.own[row] for row in rows]
        wanted = self.mining.num_negatives - chosen.own[rows]
        choice = choose(
            scores,
            forms,
            ceilings,
            wanted=wanted,
            positives=[pool.forms[pool.positives_of(q)] for q in query],
            queries=pool.query_forms[query],
            present=[pool.forms[numbers] for numbers in own],
            shift=self.mining.shift if self.mining.method == "shifted" else 0,
            order=self._order(query, documents, scores),
            near=self._near(query, documents),
        )
        for row, near, columns in zip(rows, documents, choice.columns, strict=True):
            at = chosen.own[row]
            chosen.documents[row, at : at + len(columns)] = near[columns]
        chosen.ceilings[rows] = ceilings
        chosen.positive_scores[rows] = self.scorer.pair_scores(query, pool.positive_of_row[rows][:, None])[:, 0]
        chosen.positive_first[rows] = [
            _comes_first(near, int(pool.query_forms[q]), pool.forms[pool.positives_of(q)])
            for q, near in zip(query, forms, strict=True)
        ]
        suspect, each = choice.suspects >= 0, np.arange(len(rows))
        chosen.suspect[rows] = np.where(suspect, documents[each, choice.suspects], -1)
        chosen.suspect_scores[rows] = np.where(suspect, scores[each, choice.suspects], np.nan)
        lacks = deeper & (np.array([len(columns) for columns in choice.columns]) < wanted)
        self.tally.count({name: int(counts[~lacks].sum()) for name, counts in choice.by_query.items()})
        found: np.ndarray = lacks
        return found

    def _order(self, query: np.ndarray, documents: np.ndarray, scores: np.ndarray) -> Order | None:
        """Best first, or, if the recipe samples, as drawn among the best."""
        sampling, seed = self.mining.sampling, self.mining.seed
        if not sampling.enabled:
            return None

        def drawn(place: int, columns: np.ndarray) -> np.ndarray:
            best = columns[: sampling.top]
            keys = self.pool.corpus.keys[documents[place, best]]
            noise = hash_noise(seed, int(self.pool.queries.keys[query[place]]), keys)
            found: np.ndarray = best[softmax_order(scores[place, best], noise, sampling.temperature)]
            return found

        return drawn

    def _near(self, query: np.ndarray, documents: np.ndarray) -> Near | None:
        near, pool = self.near, self.pool
        if near is None:
            return None

        def copies(places: np.ndarray, columns: np.ndarray) -> np.ndarray:
            numbers = documents[places, columns]
            asked = np.unique(query[places])
            around = {int(q): pool.positives_of(q) for q in asked}
            needed = np.unique(np.concatenate([numbers, *around.values()]))
            texts = dict(zip(needed.tolist(), pool.documents_of(needed), strict=True))
            queries = dict(zip(asked.tolist(), pool.queries.texts(asked), strict=True))
            references = {q: [queries[q], *(texts[int(d)] for d in found)] for q, found in around.items()}
            pairs = zip(numbers, query[places], strict=True)
            return np.array([near(texts[int(d)], references[int(q)]) for d, q in pairs], dtype=bool)

        return copies

    def _smallest_positive(self, queries: np.ndarray) -> np.ndarray:
        """(q,) the smallest score among the positives of each query."""
        starts, stops = self.pool.positive_starts[queries].T
        sizes = stops - starts
        which = np.repeat(np.arange(len(queries)), sizes)
        smallest = np.full(len(queries), np.inf, dtype=np.float32)
        for part in _blocks(np.arange(len(which)), _ROWS):
            at = which[part]
            inside = part - (np.cumsum(sizes) - sizes)[at]
            document = self.pool.positives[starts[at] + inside]
            with np.errstate(invalid="ignore"):  # what is no number is refused by the search, with the text's number
                np.minimum.at(smallest, at, self.scorer.pair_scores(queries[at], document[:, None])[:, 0])
        return smallest


def _usable(pool: Pool, row: int, tally: Tally) -> np.ndarray:
    """A row's own negatives, without those that equal its query or one of its positives."""
    found, query = pool.own_negatives(row), int(pool.query_of_row[row])
    if not len(found):
        return found
    unfit = np.append(pool.forms[pool.positives_of(query)], pool.query_forms[query])
    usable = found[~np.isin(pool.forms[found], unfit)]
    tally.own_dropped += len(found) - len(usable)
    return usable


def _comes_first(forms: np.ndarray, query: int, positives: np.ndarray) -> bool:
    """Is the nearest candidate that is not the query itself a positive of it?"""
    others = forms[(forms != query) & (forms >= 0)]
    return bool(len(others) and (positives == others[0]).any())


def _union(pool: Pool, found: Sequence[Chosen], width: int, wanted: int) -> np.ndarray:
    """Own negatives, then each teacher's first, each one's second, and so on, no text twice, `wanted` in all."""
    documents = np.full((len(pool.rows), width), -1, dtype=np.int64)
    for row, own in enumerate(found[0].own):
        taken = found[0].documents[row, :own].tolist()
        forms = set(pool.forms[np.array(taken, dtype=np.int64)].tolist())
        for one in np.stack([chosen.documents[row, own:] for chosen in found], axis=1).ravel().tolist():
            if len(taken) >= max(wanted, own):
                break
            if one >= 0 and (form := int(pool.forms[one])) not in forms:
                taken.append(one)
                forms.add(form)
        documents[row, : len(taken)] = taken
    return documents


def _width(pool: Pool, mining: Mining) -> int:
    """The most negatives a row may end with: its own are all kept."""
    return max(mining.num_negatives, int(np.diff(pool.negative_starts).max(initial=0)))


def _blocks(items: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
