"""Texts that nearly copy each other: MinHash finds candidates, exact Jaccard similarity of word 5-grams decides.

A text of fewer than five words is one n-gram, so that it only matches itself. MinHash and its locality-sensitive
index: Broder 1997; datasketch.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Generic, TypeVar

NGRAM = 5
_WORD = re.compile(r"\w+")
_PERMUTATIONS = 128
_SLACK = 0.2  # candidates are drawn from below the threshold: the index misses some that lie right at its own
K = TypeVar("K", bound=Hashable)


def words_of(text: str) -> list[str]:
    """A text's words in their order, case and punctuation aside."""
    return _WORD.findall(text.lower())


def word_ngrams(words: Sequence[str]) -> set[tuple[str, ...]]:
    """The 5-grams of a text's words; fewer than five words are one n-gram, none are none."""
    size = min(NGRAM, len(words)) or 1
    return set(zip(*(words[start:] for start in range(size)), strict=False))


def ngrams(text: str) -> frozenset[int]:
    """Digests of a text's word 5-grams, case and punctuation aside; of the text itself if it has no words."""
    grams = {" ".join(gram) for gram in word_ngrams(words_of(text))} or {text}
    return frozenset(int.from_bytes(blake2b(gram.encode(), digest_size=4).digest(), "little") for gram in grams)


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """Shared share of two sets, from 0 to 1."""
    return len(one & other) / len(one | other)


class NearCopies(Generic[K]):
    """Texts under keys, and which of them a given text nearly copies."""

    def __init__(self, threshold: float) -> None:
        """`threshold`: Jaccard similarity from which on two texts count as copies."""
        from datasketch import MinHashLSH

        self.threshold = threshold
        self._index = MinHashLSH(threshold=min(max(threshold - _SLACK, 0.1), 0.9), num_perm=_PERMUTATIONS)
        self._grams: dict[int, frozenset[int]] = {}
        self._keys: list[K] = []
        self._known: dict[frozenset[int], list[int]] = {}

    def add(self, key: K, text: str) -> None:
        """Remember a text under `key`; a key may be given to several texts."""
        grams = ngrams(text)
        number = len(self._keys)
        self._keys.append(key)
        same = self._known.setdefault(grams, [])
        same.append(number)
        if len(same) == 1:  # equal texts share one entry of the index
            self._grams[number] = grams
            self._index.insert(number, _sketch(grams), check_duplication=False)

    def copies_of(self, text: str) -> list[K]:
        """Keys of the remembered texts that `text` nearly copies, in the order they were added."""
        grams = ngrams(text)
        if not self._keys:
            return []
        found = set(self._known.get(grams, ()))
        for number in self._index.query(_sketch(grams)):
            if number not in found and jaccard(grams, self._grams[number]) >= self.threshold:
                found.update(self._known[self._grams[number]])
        return [self._keys[number] for number in sorted(found)]

    def __contains__(self, text: str) -> bool:
        return bool(self.copies_of(text))


def _sketch(grams: frozenset[int]):  # type: ignore[no-untyped-def]  # datasketch has no types
    from datasketch import MinHash

    sketch = MinHash(num_perm=_PERMUTATIONS, hashfunc=int)
    sketch.update_batch(sorted(grams))
    return sketch
