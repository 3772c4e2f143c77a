"""Evaluation texts found again in training texts: as they are, re-punctuated, slightly re-worded, inside longer ones.

Three sieves, each finer and slower than the one before:

1. the same words in the same order (case, punctuation and spacing aside), by digest;
2. of each evaluation text the rarest word pairs (two words that follow each other, rare among the evaluation texts; at
   most `SKETCH`) and the share of them, weighed by rarity, that the training text holds too. It asks how much of the
   evaluation text is there, not how alike the two are, so what surrounds it does not hide it;
3. of what shares enough: the similarity of the evaluation text to the nearest stretch of the training text, letter by
   letter (rapidfuzz's `partial_ratio`: twice the longest common subsequence over both lengths).

Texts of few words have too few pairs to tell, and stand in longer ones by chance: only the first sieve meets them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nvembed.core.digests import digest_text

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SKETCH = 32  # pairs kept of an evaluation text: enough to tell it, few enough to hold millions of texts
_CANDIDATES = 5  # looked at of a training text, those with the largest share
_BLOCK = 4096  # training texts compared at once
_HASHES = 2**30  # pairs are told apart by hash; what two pairs share by chance the third sieve refuses
_WORD = re.compile(r"\w+")


def plain_words(text: str) -> str:
    """A text's words, compatibility forms and case folded, with single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(_WORD.findall(text.casefold()))


@dataclass(frozen=True, slots=True)
class Overlap:
    """An evaluation text (its number) found in a training text, and how alike they are: 1 for the same words."""

    reference: int
    kind: Literal["exact", "near", "bm25"]
    similarity: float


class OverlapIndex:
    """Evaluation texts, and which of them a training text holds.

    Args:
        references: the evaluation texts.
        min_words: shorter ones are met only where they stand word for word.
        shared: weighed share of a text's rarest pairs, from which on it is a candidate.
        similarity: of the nearest stretch, from 0 to 1, from which on it counts as found.
    """

    def __init__(
        self, references: Sequence[str], *, min_words: int = 8, shared: float = 0.35, similarity: float = 0.75
    ) -> None:
        self.shared, self.similarity = shared, similarity
        self._exact: dict[bytes, int] = {}
        self._numbers: list[int] = []  # of the texts that the second sieve knows
        self._texts: list[str] = []
        for number, reference in enumerate(references):
            text = plain_words(reference)
            key = _key(text)
            if not text or key in self._exact:
                continue
            self._exact[key] = number
            if text.count(" ") + 1 >= min_words:
                self._numbers.append(number)
                self._texts.append(text)
        self._pairs, self._weights = _sketches(self._texts)

    def find(self, texts: Sequence[str]) -> list[Overlap | None]:
        """What each training text holds: the evaluation text most like it, or None."""
        found: list[Overlap | None] = []
        for start in range(0, len(texts), _BLOCK):
            found += self._find_block([plain_words(text) for text in texts[start : start + _BLOCK]])
        return found

    def _find_block(self, texts: list[str]) -> list[Overlap | None]:
        found: list[Overlap | None] = [
            Overlap(self._exact[key], "exact", 1.0) if text and (key := _key(text)) in self._exact else None
            for text in texts
        ]
        open_ = [place for place, overlap in enumerate(found) if overlap is None]
        for place, candidates in zip(open_, self._candidates([texts[place] for place in open_]), strict=True):
            alike = [(_similarity(self._texts[number], texts[place]), -number) for number in candidates]
            best, number = max(alike, default=(0.0, 0))
            if best >= self.similarity:
                found[place] = Overlap(self._numbers[-number], "near", best)
        return found

    def _candidates(self, texts: list[str]) -> Iterator[np.ndarray]:
        """For each text the evaluation texts that share enough with it, at most `_CANDIDATES`."""
        if not len(self._pairs) or not texts:
            yield from (np.empty(0, dtype=np.int64) for _ in texts)
            return
        shares = (_known(_word_pairs(texts), self._pairs) @ self._weights).tocsr()
        for row in range(len(texts)):
            inside = slice(shares.indptr[row], shares.indptr[row + 1])
            values, numbers = shares.data[inside], shares.indices[inside]
            enough = np.flatnonzero(values >= self.shared - 1e-6)
            # the largest share first, then the smallest number: never the order of a sparse product
            yield numbers[enough[np.lexsort((numbers[enough], -values[enough]))[:_CANDIDATES]]]


def _sketches(texts: list[str]) -> tuple[np.ndarray, Any]:
    """The pairs kept, sorted, and (pairs, texts) float32: what share of a text's weight each pair makes.

    The weight of a pair is ln((1 + texts) / texts that hold it).
    """
    from scipy.sparse import csr_matrix

    if not texts:
        return np.empty(0, dtype=np.int64), None
    counted = _word_pairs(texts)
    pairs, place, held_by = np.unique(counted.indices, return_inverse=True, return_counts=True)
    text_of = np.repeat(np.arange(len(texts)), np.diff(counted.indptr))
    rarest_first = np.lexsort((counted.indices, held_by[place], text_of))
    rank = np.arange(len(rarest_first)) - counted.indptr[text_of[rarest_first]]
    kept = rarest_first[rank < SKETCH]
    rarity = np.log((1 + len(texts)) / held_by[place[kept]])
    share = rarity / np.bincount(text_of[kept], weights=rarity, minlength=len(texts))[text_of[kept]]
    used, column = np.unique(place[kept], return_inverse=True)
    weights = csr_matrix((share.astype(np.float32), (column, text_of[kept])), shape=(len(used), len(texts)))
    return pairs[used], weights


def _word_pairs(texts: list[str]) -> csr_matrix:
    """(texts, hashes) of 1 where a text holds a pair; a text's hashes in rising order."""
    from sklearn.feature_extraction.text import HashingVectorizer

    counter = HashingVectorizer(
        analyzer="word",
        token_pattern=r"\S+",
        lowercase=False,
        ngram_range=(2, 2),
        n_features=_HASHES,
        norm=None,
        alternate_sign=False,
        binary=True,
        dtype=np.float32,
    )
    matrix: csr_matrix = counter.transform(texts)
    matrix.sort_indices()
    return matrix


def _known(counted: csr_matrix, pairs: np.ndarray) -> csr_matrix:
    """`counted` with the columns of `pairs` alone."""
    from scipy.sparse import csr_matrix

    place = np.minimum(np.searchsorted(pairs, counted.indices), len(pairs) - 1)
    hit = pairs[place] == counted.indices
    before = np.concatenate([[0], np.cumsum(hit)])
    return csr_matrix((counted.data[hit], place[hit], before[counted.indptr]), shape=(counted.shape[0], len(pairs)))


def _similarity(reference: str, text: str) -> float:
    """From 0 to 1: the reference against the nearest stretch of the text; against the whole of a shorter text."""
    from rapidfuzz import fuzz

    return (fuzz.partial_ratio if len(reference) <= len(text) else fuzz.ratio)(reference, text) / 100


def _key(text: str) -> bytes:
    return bytes.fromhex(digest_text(text))[:16]
