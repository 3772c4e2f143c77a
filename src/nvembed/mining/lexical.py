"""BM25 as a mining teacher: candidates that share words with the query, where an embedding finds those alike in sense.

Lucene's variant (Kamphuis et al., ECIR 2020). The score of query q and document d is the sum over q's words w, each as
often as it stands in q, of

    idf(w) * tf / (tf + k1 * (1 - b + b * |d| / avg)),   idf(w) = ln(1 + (n - df + 0.5) / (df + 0.5))

with tf how often w stands in d, df how many of the n documents hold it, |d| the words of d and avg their mean. Words
are bm25s's; the index is our own, since bm25s takes all texts at once, breaks ties at random and scores no given pair.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nvembed.core.digests import digest_json
from nvembed.core.progress import Progress
from nvembed.data.words import K1, STEMS, STOP_WORDS, B, stemmed_words

TEXT_BLOCK = 4096


class _Postings(NamedTuple):
    """Of one batch of documents, ordered by word, then document: who holds which word how often. Three int32 arrays."""

    words: np.ndarray
    documents: np.ndarray
    counts: np.ndarray


class LexicalIndex:
    """An inverted index of numbered documents: 8 bytes for each distinct word of each document.

    A pair's score is the same wherever it comes from: float32 weights, summed in double precision in the order of the
    query's words in the alphabet, rounded once.

    Attributes:
        count: how many documents.
    """

    def __init__(self, batches: Iterable[Sequence[str]]) -> None:
        """`batches`: the documents' texts in the order of their numbers; one batch at a time is held."""
        self._numbers: dict[str, int] = {}
        parts: deque[_Postings] = deque()
        lengths = [np.empty(0, np.int32)]
        self.count = 0
        for texts in batches:
            part, sizes = self._read(texts)
            parts.append(part)
            lengths.append(sizes)
            self.count += len(texts)
        self._fill(parts, np.concatenate(lengths))

    def fingerprint(self) -> str:
        """Digest of how texts are read and weighed; what the scores are depends on the documents too."""
        return digest_json({"bm25": "lucene", "k1": K1, "b": B, "stop words": STOP_WORDS, "stems": STEMS})

    def top_k(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The `k` documents that score highest for each query.

        Returns:
            indices: (q, min(k, count)) int64, best first, ties by the smaller number; -1 where no further document
                shares a word with the query.
            scores: the same shape, float32; -inf beside -1.
        """
        k = min(k, self.count)
        indices = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        progress = Progress("searching words", len(queries))
        for row, (words, counts) in enumerate(self._read_queries(queries)):
            found, found_scores = self._best(words, counts, k)
            indices[row, : len(found)], scores[row, : len(found)] = found, found_scores
            progress.update(row + 1)
        return indices, scores

    def pair_scores(self, queries: Sequence[str], documents: np.ndarray) -> np.ndarray:
        """Scores of query i and the documents numbered `documents[i, j]`, equal to those of `top_k`.

        Args:
            documents: (q, m) int64; -1 for none.

        Returns:
            (q, m) float32: 0 where no word is shared, -inf where there is no document.
        """
        numbers = documents.astype(np.int32)
        sums = np.zeros(documents.shape, dtype=np.float64)
        for row, (words, counts) in enumerate(self._read_queries(queries)):
            for word, count in zip(words, counts, strict=True):
                held = slice(self._starts[word], self._starts[word + 1])
                holders, weights = self._documents[held], self._weights[held]
                places = np.minimum(np.searchsorted(holders, numbers[row]), len(holders) - 1)
                sums[row] += np.where(holders[places] == numbers[row], weights[places], 0).astype(np.float64) * count
        return np.where(documents < 0, -np.inf, sums).astype(np.float32)

    def text_scores(self, queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        """(n,) float32, scores of query i and text i, which need not be in the index: its idf and mean length hold.

        A text that is in the index scores as it does by number.
        """
        sums = np.zeros(len(queries), dtype=np.float64)
        read = zip(self._read_queries(queries), self._read_texts(texts), strict=True)
        for row, ((words, counts), text) in enumerate(read):
            held = (words[:, None] == text).sum(axis=1)
            weights = self._weigh(words, held, np.array(len(text)))
            for weight, count in zip(weights.astype(np.float64), counts, strict=True):
                sums[row] += weight * count
        return sums.astype(np.float32)

    def _read(self, texts: Sequence[str]) -> tuple[_Postings, np.ndarray]:
        """A batch's postings and its documents' lengths in words, (n,) int32; new words get the next numbers."""
        read = stemmed_words(texts)
        numbers = np.empty(len(read.vocab), dtype=np.int64)
        for stem in sorted(read.vocab):  # the vocabulary's own order changes from process to process
            numbers[read.vocab[stem]] = self._numbers.setdefault(stem, len(self._numbers))
        lengths = np.array([len(ids) for ids in read.ids], dtype=np.int32)
        flat = np.fromiter((number for ids in read.ids for number in ids), dtype=np.int64, count=int(lengths.sum()))
        documents = np.repeat(np.arange(self.count, self.count + len(texts)), lengths)
        pairs, counts = np.unique(numbers[flat] << 32 | documents, return_counts=True)
        words, holders = (pairs >> 32).astype(np.int32), (pairs & 0xFFFFFFFF).astype(np.int32)
        return _Postings(words, holders, counts.astype(np.int32)), lengths

    def _fill(self, parts: deque[_Postings], lengths: np.ndarray) -> None:
        """Set the batches' postings in one array ordered by word; each batch is let go once it stands there."""
        frequencies = np.zeros(len(self._numbers), dtype=np.int64)
        for part in parts:
            frequencies += np.bincount(part.words, minlength=len(frequencies))
        self._idf = np.log1p((self.count - frequencies + 0.5) / (frequencies + 0.5))
        self._mean_length = float(lengths.mean()) if lengths.any() else 1.0
        self._starts = np.concatenate([[0], np.cumsum(frequencies)])
        self._documents = np.empty(int(self._starts[-1]), dtype=np.int32)
        self._weights = np.empty(len(self._documents), dtype=np.float32)
        free = self._starts[:-1].copy()
        while parts:
            words, documents, counts = parts.popleft()
            held = np.bincount(words, minlength=len(free))
            first = np.cumsum(held) - held
            places = free[words] + np.arange(len(words)) - first[words]
            self._documents[places] = documents
            self._weights[places] = self._weigh(words, counts, lengths[documents])
            free += held

    def _weigh(self, words: np.ndarray, counts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """What a word that stands `counts` times in a text of `lengths` words adds to a score, float32."""
        saturation = counts / (counts + K1 * (1 - B + B * lengths / self._mean_length))
        return (self._idf[words] * saturation).astype(np.float32)

    def _read_queries(self, queries: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Numbers and counts of each query's known words, in the order of the alphabet."""
        for start in range(0, len(queries), TEXT_BLOCK):
            read = stemmed_words(queries[start : start + TEXT_BLOCK])
            stems = sorted(read.vocab)
            ranks = np.empty(len(stems), dtype=np.int64)
            ranks[[read.vocab[stem] for stem in stems]] = np.arange(len(stems))
            numbers = np.array([self._numbers.get(stem, -1) for stem in stems], dtype=np.int64)
            for ids in read.ids:
                places, counts = np.unique(ranks[np.array(ids, dtype=np.int64)], return_counts=True)
                known = numbers[places] >= 0
                yield numbers[places[known]], counts[known]

    def _read_texts(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """Numbers of each text's words, -1 for those that the index does not know."""
        for start in range(0, len(texts), TEXT_BLOCK):
            read = stemmed_words(texts[start : start + TEXT_BLOCK])
            numbers = np.empty(len(read.vocab), dtype=np.int64)
            for stem, place in read.vocab.items():
                numbers[place] = self._numbers.get(stem, -1)
            for ids in read.ids:
                yield numbers[np.array(ids, dtype=np.int64)]

    def _best(self, words: np.ndarray, counts: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and float32 scores of at most `k` documents that hold one of the words, best first."""
        sums = np.zeros(self.count, dtype=np.float64)
        for word, count in zip(words, counts, strict=True):
            held = slice(self._starts[word], self._starts[word + 1])
            np.add.at(sums, self._documents[held], self._weights[held].astype(np.float64) * count)
        scores = sums.astype(np.float32)
        edge = np.partition(scores, -k)[-k] if k else np.float32(0)
        found = np.flatnonzero(scores >= edge if edge > 0 else scores)
        order = np.lexsort((found, -scores[found]))[:k]
        return found[order], scores[found[order]]
