"""The texts of a mining run, numbered, so that questions about texts become questions about integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nvembed.data import Example
from nvembed.mining.rules import normalise
from nvembed.mining.search import pair_scores

PAIR_BLOCK = 4096


class Texts:
    """Queries and documents of the rows to mine.

    Attributes:
        documents: distinct texts, the corpus first (by id, so that ties fall by id), then positives and negatives of
            the rows that the corpus lacks. Only the first `corpus_size` are candidates.
        queries: distinct queries. `query_of_row[i]` is the query of the i-th mined row.
        keys, query_keys: a number for each document's and query's normalised text; equal numbers, equal texts.
        positive_keys: a query's key → keys of its positives, in whatever row they stand.
    """

    def __init__(self, examples: Sequence[Example], corpus: dict[str, str]) -> None:
        candidates = list(dict.fromkeys(corpus[name] for name in sorted(corpus)))
        others = (text for example in examples for text in (example.positive, *example.negatives))
        self.corpus_size = len(candidates)
        self.documents = list(dict.fromkeys([*candidates, *others]))
        self.queries = list(dict.fromkeys(example.query for example in examples))
        self._document_number = {text: number for number, text in enumerate(self.documents)}
        query_number = {text: number for number, text in enumerate(self.queries)}
        self.query_of_row = np.array([query_number[example.query] for example in examples], dtype=np.int64)
        self.positive_of_row = np.array(
            [self._document_number[example.positive] for example in examples], dtype=np.int64
        )
        forms: dict[str, int] = {}
        self.keys = np.array([forms.setdefault(normalise(text), len(forms)) for text in self.documents])
        self.query_keys = np.array([forms.setdefault(normalise(text), len(forms)) for text in self.queries])
        self._positives: dict[int, set[int]] = {}
        for query, positive in zip(self.query_of_row, self.positive_of_row, strict=True):
            self._positives.setdefault(int(self.query_keys[query]), set()).add(int(positive))
        self.positive_keys = {key: {int(self.keys[d]) for d in found} for key, found in self._positives.items()}

    def smallest_positive_scores(self, query_vectors: np.ndarray, document_vectors: np.ndarray) -> np.ndarray:
        """(q,) float32, the smallest score among the positives of each query."""
        pairs = [(query, d) for query, key in enumerate(self.query_keys) for d in sorted(self._positives[int(key)])]
        smallest = np.full(len(self.queries), np.inf, dtype=np.float32)
        for start in range(0, len(pairs), PAIR_BLOCK):
            query, document = np.array(pairs[start : start + PAIR_BLOCK]).T
            np.minimum.at(smallest, query, pair_scores(query_vectors[query], document_vectors, document[:, None])[:, 0])
        return smallest

    def usable_negatives(self, row: int, negatives: Sequence[str]) -> list[int]:
        """Document numbers of a row's own negatives, without those that equal its query or one of its positives."""
        key = int(self.query_keys[self.query_of_row[row]])
        unfit = self.positive_keys[key] | {key}
        numbers = [self._document_number[text] for text in dict.fromkeys(negatives)]
        return [number for number in numbers if int(self.keys[number]) not in unfit]

    def positive_comes_first(self, query: int, near: np.ndarray) -> bool:
        """Is the nearest candidate that is not the query itself a positive of it?"""
        key = int(self.query_keys[query])
        return next((int(k) for k in self.keys[near] if k != key), None) in self.positive_keys[key]
