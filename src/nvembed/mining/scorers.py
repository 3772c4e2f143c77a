"""Teachers that are no embedding model, on one pool: BM25, and a cross-encoder over another teacher's candidates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nvembed.core.digests import digest_json
from nvembed.mining.dense import kept_search
from nvembed.mining.lexical import TEXT_BLOCK, LexicalIndex
from nvembed.mining.pools import Pool
from nvembed.mining.selection import Scorer

if TYPE_CHECKING:
    from nvembed.mining.rescoring import CrossEncoder

_PAIRS = 65_536  # whose texts are held at once


class LexicalTeacher:
    """BM25 over a pool's passages."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._index = LexicalIndex(_batches(pool))
        self.fingerprint = self._index.fingerprint()

    def nearest(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Documents and scores, best first; -1 where no further document shares a word with the query."""
        return self._index.top_k(self._pool.queries.texts(queries), depth)

    def pair_scores(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """(q, m) float32. What is not among the passages is scored by their idf and mean length."""
        size = len(self._pool.corpus)
        texts = self._pool.queries.texts(queries)
        scores = self._index.pair_scores(texts, np.where(documents < size, documents, 0))
        row, column = np.nonzero(documents >= size)
        if len(row):
            others = self._pool.documents_of(documents[row, column])
            scores[row, column] = self._index.text_scores([texts[place] for place in row], others)
        return scores


class Rescored:
    """Another teacher's candidates, scored and ordered anew by a cross-encoder; its scores are kept in the state."""

    def __init__(self, base: Scorer, encoder: CrossEncoder, pool: Pool) -> None:
        self._base, self._encoder, self._pool = base, encoder, pool
        self.fingerprint = digest_json([base.fingerprint, encoder.fingerprint()])

    def nearest(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """The other's `depth` nearest, best first by the cross-encoder, ties by the smaller document."""
        made = {
            "scored by": self.fingerprint,
            "queries": digest_json(self._pool.queries.keys[queries].tolist()),
            "documents": self._pool.corpus.digest,
            "depth": depth,
        }
        return kept_search(made, lambda: self._search(queries, depth))

    def pair_scores(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """(q, m) float32, the cross-encoder's; -inf where a document is -1."""
        scores = np.full(documents.shape, -np.inf, dtype=np.float32)
        rows = max(1, _PAIRS // max(1, documents.shape[1]))
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            row, column = np.nonzero(documents[part] >= 0)
            texts = self._pool.queries.texts(queries[part])
            passages = self._pool.documents_of(documents[part][row, column])
            scores[part][row, column] = self._encoder.scores([texts[place] for place in row], passages)
        return scores

    def _search(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        documents, _ = self._base.nearest(queries, depth)
        scores = self.pair_scores(queries, documents)
        order = np.lexsort((documents, -scores), axis=1)
        return np.take_along_axis(documents, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _batches(pool: Pool) -> Iterator[list[str]]:
    for start in range(0, len(pool.corpus), TEXT_BLOCK):
        yield pool.corpus.texts(slice(start, start + TEXT_BLOCK))
