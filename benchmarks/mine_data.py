"""Queries and documents for `mine.py`: clustered unit vectors as an encoder's, and a text for each. Seeded.

Independent vectors of equal length all have about the same inner product: no candidate stands out, and no rule drops
one. Here a document lies near the centre of its topic, a topic near one of a few fields, topics are of uneven size,
half of the documents almost repeat their topic, variance falls off over the axes, and a query is a noisy copy of its
positive. So the positive comes first for four queries of five, and a sixth of the nearest hundred documents score above
95 % of it (`mine.py` prints these figures for the size asked).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK = 20_000
FIELDS, DOCUMENTS_A_TOPIC = 24, 100
VOCABULARY = 5_000
NOT_ASCII = ("naïve", "Straße", "café", "ﬁle", "Ångström", "東京")


@dataclass(frozen=True)
class Data:
    """`documents[i]` has the vector `document_vectors[i]`; `positives[j]` is the place of query j's only positive."""

    queries: list[str]
    documents: list[str]
    query_vectors: np.ndarray
    document_vectors: np.ndarray
    positives: np.ndarray

    def part(self, queries: int, documents: int) -> Data:
        """The first so many of each; documents at least an eighth of all, which holds every positive."""
        return Data(
            self.queries[:queries],
            self.documents[:documents],
            self.query_vectors[:queries],
            self.document_vectors[:documents],
            self.positives[:queries],
        )


def make(folder: Path, queries: int, documents: int, dim: int, seed: int = 7) -> None:
    """Write vectors (float32 .npy), places of the positives and texts, block by block."""
    rng = np.random.default_rng(seed)
    centres = _centres(rng, documents, dim)
    rows = np.lib.format.open_memmap(folder / "documents.npy", "w+", np.float32, (documents, dim))
    for start in range(0, documents, BLOCK):
        count = min(BLOCK, documents - start)
        # Squaring makes the first topics several times as large as the last.
        topic = centres[(len(centres) * rng.random(count) ** 2).astype(np.int64)]
        weight = np.where(rng.random(count) < 0.5, 0.97, rng.uniform(0.7, 0.97, count))
        rows[start : start + count] = _near(rng, topic, weight)
    rows.flush()
    among = max(1, documents // 8)
    positives = rng.choice(among, queries, replace=queries > among)
    np.save(folder / "positives.npy", positives)
    np.save(folder / "queries.npy", _near(rng, rows[positives], rng.uniform(0.35, 0.85, queries)))
    for name, count, words in (("documents", documents, (20, 60)), ("queries", queries, (5, 12))):
        with (folder / f"{name}.txt").open("w", encoding="utf-8") as stream:
            stream.writelines(f"{text}\n" for text in _texts(name, count, words, seed))


def read(folder: Path, *, in_memory: bool) -> Data:
    """What `make` wrote; vectors memory-mapped, or read whole."""
    mode = None if in_memory else "r"
    queries, documents = ((folder / f"{name}.txt").read_text("utf-8").split("\n")[:-1] for name in _SIDES)
    vectors = [np.load(folder / f"{name}.npy", mmap_mode=mode) for name in _SIDES]
    return Data(queries, documents, vectors[0], vectors[1], np.load(folder / "positives.npy"))


_SIDES = ("queries", "documents")


def _centres(rng: np.random.Generator, documents: int, dim: int) -> np.ndarray:
    fields = _unit(rng.standard_normal((FIELDS, dim), dtype=np.float32))
    topics = max(FIELDS, documents // DOCUMENTS_A_TOPIC)
    return _near(rng, fields[rng.integers(FIELDS, size=topics)], np.full(topics, 0.6))


def _near(rng: np.random.Generator, vectors: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """(n, dim) unit vectors at about the given cosines to unit vectors."""
    width = vectors.shape[1]
    falling = (1 + np.arange(width, dtype=np.float32)) ** -0.25
    noise = _unit(rng.standard_normal(vectors.shape, dtype=np.float32) * falling)
    weight = cosine.astype(np.float32)[:, None]
    return _unit(weight * vectors + np.sqrt(1 - weight**2) * noise)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _texts(name: str, count: int, words: tuple[int, int], seed: int) -> Iterator[str]:
    """Different texts of so many made-up words, from a fixed vocabulary with capitals and a few words beyond ASCII."""
    draw = random.Random(seed)
    parts = ["ka", "lo", "min", "ter", "su", "re", "pon", "da", "vel", "is"]
    made = ["".join(draw.choices(parts, k=draw.randint(1, 4))) for _ in range(VOCABULARY)]
    vocabulary = [*NOT_ASCII, *made, *(word.capitalize() for word in made[:500])]
    for number in range(count):
        yield f"{name} {number} " + " ".join(draw.choices(vocabulary, k=draw.randint(*words)))
