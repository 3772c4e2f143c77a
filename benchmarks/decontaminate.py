"""How well and how fast evaluation texts are found again in training texts.

    python benchmarks/decontaminate.py --out benchmarks/results/decontaminate.json

1. Rates. Evaluation texts: passages of one half of Python's documentation, by module. Each of them is planted in five
   ways (as it is; re-cased; re-punctuated; a fifth of its words replaced by words drawn from all documentation; between
   two passages of the other half) and looked for. The other half's passages as they stand are the clean texts: those
   dropped all the same are listed, so that a reader can judge which of them are copies indeed.
2. Scale. Texts of a chain of word pairs of the same documentation (uneven lengths, 4 to 300 words), so that common
   pairs are as common as in real text and false candidates more common; time and peak memory of this process.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from machine import describe, heading

from nvembed.data.overlap import OverlapIndex, plain_words
from nvembed.data.pydocs import read_python_docs

BATCH = 20_000
SHORT = 16  # words: texts below are told apart in the table


def main() -> None:
    """Print the rates, then time and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=1_000_000)
    parser.add_argument("--references", type=int, default=100_000)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args()
    print(heading(), flush=True)
    facts: dict[str, Any] = {"machine": describe(), "rates": rates(), "scale": scale(asked.train, asked.references)}
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def halves() -> tuple[list[str], list[str]]:
    """Different passages of Python's documentation, of two halves of its modules."""
    found: tuple[dict[str, None], dict[str, None]] = ({}, {})
    labels = sorted({pair.label for pair in read_python_docs().pairs})
    random.Random(0).shuffle(labels)
    first = set(labels[::2])
    for pair in read_python_docs().pairs:
        found[pair.label not in first][pair.positive] = None
    return list(found[0]), list(found[1])


def planted(texts: list[str], others: list[str]) -> dict[str, list[str]]:
    """The texts as they might stand in training data."""
    draw = random.Random(1)
    vocabulary = [word for text in others for word in text.split()]

    def reworded(text: str) -> str:
        return " ".join(draw.choice(vocabulary) if draw.random() < 0.2 else word for word in text.split())

    return {
        "as it is": texts,
        "re-cased": [text.upper() for text in texts],
        "re-punctuated": [" -- ".join(plain_words(text).split()) + " !" for text in texts],
        "a fifth of the words changed": [reworded(text) for text in texts],
        "inside a longer text": [f"{draw.choice(others)} {text} {draw.choice(others)}" for text in texts],
    }


def rates() -> dict[str, Any]:
    """Share found of each way of planting, share of clean texts dropped."""
    references, clean = halves()
    index = OverlapIndex(references)
    words = [len(plain_words(text).split()) for text in references]
    usable = [n for n, count in enumerate(words) if count >= 8]
    texts = [references[n] for n in usable]
    short = [words[n] < SHORT for n in usable]
    rows: dict[str, Any] = {}
    print(f"\n{len(texts)} evaluation texts of 8 words or more, {sum(short)} of them of fewer than {SHORT}")
    for way, changed in planted(texts, clean).items():
        hits = [overlap is not None for overlap in index.find(changed)]
        few = [hit for hit, is_short in zip(hits, short, strict=True) if is_short]
        rows[way] = {"found": sum(hits) / len(hits), "found_short": sum(few) / len(few)}
        print(f"  {way:30} {rows[way]['found']:.3f} found; of the short ones {rows[way]['found_short']:.3f}")
    dropped = [(o, text) for o, text in zip(index.find(clean), clean, strict=True) if o is not None]
    rate = len(dropped) / len(clean)
    print(f"  {len(dropped)} of {len(clean)} clean texts dropped ({rate:.4f}):")
    for overlap, text in dropped:
        print(f"    {overlap.similarity:.2f}  {text[:70]!r} ~ {references[overlap.reference][:70]!r}")
    listed = [
        {"similarity": round(o.similarity, 3), "text": text, "reference": references[o.reference]}
        for o, text in dropped
    ]
    return {"evaluation_texts": len(texts), "planted": rows, "clean": len(clean), "false_drops": rate, "listed": listed}


class Chain:
    """Texts in which each word follows the one before it somewhere in Python's documentation."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._next: dict[str, list[str]] = {}
        self._first: list[str] = []
        for pair in read_python_docs().pairs:
            words = plain_words(pair.document).split()
            self._first += words[:1]
            for one, other in pairwise(words):
                self._next.setdefault(one, []).append(other)

    def texts(self, count: int) -> Iterator[str]:
        """So many texts, log-normal lengths of about 40 words."""
        draw = self._draw
        for _ in range(count):
            length = int(min(max(draw.lognormvariate(3.4, 0.8), 4), 300))
            words = [draw.choice(self._first)]
            while len(words) < length:
                words.append(draw.choice(self._next.get(words[-1]) or self._first))
            yield " ".join(words)


def scale(train: int, references: int) -> dict[str, Any]:
    """Seconds to index and to look through, writing the texts left out; peak memory of the process."""
    chain = Chain(2)
    began = time.perf_counter()
    index = OverlapIndex(list(chain.texts(references)))
    built = time.perf_counter() - began
    print(f"\n{references:,} evaluation texts indexed in {built:.1f} s (making them up included)")
    spent, found, done = 0.0, 0, 0
    while done < train:
        texts = list(chain.texts(min(BATCH, train - done)))
        began = time.perf_counter()
        found += sum(overlap is not None for overlap in index.find(texts))
        spent += time.perf_counter() - began
        done += len(texts)
        if done % (5 * BATCH) == 0 or done == train:
            print(f"  {done:,} texts in {spent:.0f} s, {found} found, peak {peak_gib():.2f} GiB", flush=True)
    return {
        "train": train,
        "references": references,
        "index_seconds": round(built, 1),
        "seconds": round(spent, 1),
        "found": found,
        "peak_gib": round(peak_gib(), 2),
    }


def peak_gib() -> float:
    """The most memory this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
