"""Texts that nearly copy a query or one of its positives: the answer in other clothes, so never a negative."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b

from nvembed.core.errors import UserError
from nvembed.data.near_copies import NGRAM, jaccard, word_ngrams, words_of

CONTAINED = 0.8
CACHED_WORDS = 1 << 20


class NearText:
    """Whether a text nearly copies one of a few others.

    It does if their word 5-grams have at least `threshold` in common (exact Jaccard similarity, the measure of
    `data.near_copies`), or if one is a contiguous part of the other and has at least `contained` of its words. Case and
    punctuation count for nothing.
    """

    def __init__(self, threshold: float, *, contained: float = CONTAINED, cached_words: int = CACHED_WORDS) -> None:
        """Start with an empty cache.

        Args:
            threshold: Jaccard similarity, above 0 and at most 1. contained: share of words, likewise.
            cached_words: words of all texts kept cut, about 110 bytes each; the least recently used go first.
        """
        for name, share in (("threshold", threshold), ("contained", contained)):
            if not 0 < share <= 1:
                raise UserError(f"near copies: {name} is {share:g}; set it above 0 and at most 1")
        self.threshold, self.contained, self.cached_words = threshold, contained, cached_words
        self._cuts: OrderedDict[bytes, _Cut] = OrderedDict()
        self._held = 0

    def __call__(self, text: str, references: Iterable[str]) -> bool:
        """Does `text` nearly copy one of `references`?"""
        cut = self._cut(text)
        return any(self._is_near(cut, self._cut(reference)) for reference in references)

    def _is_near(self, one: _Cut, other: _Cut) -> bool:
        shorter, longer = (one, other) if one.count <= other.count else (other, one)
        if 0 < self.contained * longer.count <= shorter.count and shorter.spaced in longer.spaced:
            return True
        if min(shorter.most, longer.most) < self.threshold * max(shorter.least, longer.least):
            return False  # of sets so unlike in size not enough can be shared
        return jaccard(one.grams(), other.grams()) >= self.threshold

    def _cut(self, text: str) -> _Cut:
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        cut = self._cuts.get(key)
        if cut is not None:
            self._cuts.move_to_end(key)
            return cut
        cut = self._cuts[key] = _Cut(text)
        self._held += cut.count
        while self._held > self.cached_words and len(self._cuts) > 1:
            self._held -= self._cuts.popitem(last=False)[1].count
        return cut


class _Cut:
    """A text's words, and its 5-grams once they are asked for.

    Attributes:
        spaced: the words with a space about each, so that a part of them is a part of the string.
        count: how many words. most, least: bounds of the number of distinct 5-grams.
    """

    __slots__ = ("_grams", "count", "least", "most", "spaced")

    def __init__(self, text: str) -> None:
        words = words_of(text)
        self.count = len(words)
        self.spaced = f" {' '.join(words)} " if words else text
        self.most = max(1, len(words) - NGRAM + 1)
        self.least = max(1, len(set(words)) - NGRAM + 1)  # those that begin with different words differ
        self._grams: frozenset[int] | None = None

    def grams(self) -> frozenset[int]:
        """Hashes of the distinct 5-grams, of the text itself if it has no words. Those of 64 bits do not collide."""
        if self._grams is None:
            grams = word_ngrams(self.spaced.split()) if self.count else {self.spaced}
            self._grams = frozenset(map(hash, grams))
            self.most = self.least = len(self._grams)
        return self._grams
