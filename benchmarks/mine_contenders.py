"""The contenders of `mine.py`, each in a process of its own that waits to be told how much to do.

A line in, `{"queries", "documents", "k", "depth", "watch"}`, is one run; the answer is a line with its seconds and this
process's memory. What was chosen is written to `<name>.npy`, (queries, k) places of documents, −1 where there was none.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mine_data import Data, read

THRESHOLD = 0.95
ROWS = 4096  # queries at once through the rules, as the miner does
Found = tuple[np.ndarray, dict[str, float]]
Run = Callable[[Data, int, int], Found]


def ours(precision: str) -> Run:
    """From vectors and texts to a table of chosen negatives with their scores, checks of texts included."""
    import pyarrow as pa

    from nvembed.mining import choose, pair_scores, score_ceiling, top_k
    from nvembed.mining.rules import normalise

    def run(data: Data, k: int, depth: int) -> Found:
        began = time.perf_counter()
        near, scores = top_k(data.query_vectors, data.document_vectors, depth, precision=precision)
        searched = time.perf_counter()
        own = pair_scores(data.query_vectors, data.document_vectors, data.positives[:, None])[:, 0]
        numbers: dict[str, int] = {}
        keys = np.full(len(data.documents), -1, dtype=np.int64)  # of texts that came up
        for place in np.unique(np.concatenate([near.ravel(), data.positives])).tolist():
            keys[place] = numbers.setdefault(normalise(data.documents[place]), len(numbers))
        query_keys = np.array([numbers.setdefault(normalise(text), len(numbers)) for text in data.queries])
        checked = time.perf_counter()
        ceilings = score_ceiling("percentage", THRESHOLD, own)
        columns: list[np.ndarray] = []
        for start in range(0, len(near), ROWS):
            rows = slice(start, start + ROWS)
            columns += choose(
                scores[rows],
                keys[near[rows]],
                ceilings[rows],
                wanted=np.full(len(near[rows]), k),
                positives=[{int(key)} for key in keys[data.positives[rows]]],
                queries=query_keys[rows],
                present=[set() for _ in near[rows]],
            ).columns
        chosen = [row[found].tolist() for row, found in zip(near, columns, strict=True)]
        chosen_scores = [row[found] for row, found in zip(scores, columns, strict=True)]
        pa.table(
            {
                "query": data.queries,
                "positive": [data.documents[place] for place in data.positives],
                "negatives": [[data.documents[place] for place in row] for row in chosen],
                "positive_score": own,
                "negative_scores": pa.array(chosen_scores, pa.list_(pa.float32())),
            }
        )
        parts = {"search": searched - began, "texts": checked - searched, "rules": time.perf_counter() - checked}
        return _padded(chosen, k), parts

    return run


def our_search(precision: str) -> Run:
    """`top_k` alone."""
    from nvembed.mining import top_k

    return lambda data, k, depth: (
        top_k(data.query_vectors, data.document_vectors, depth, precision=precision)[0],
        {},
    )


def faiss_search() -> Run:
    """`IndexFlatIP`, filled and searched; its vectors are in memory already."""
    import faiss

    def run(data: Data, k: int, depth: int) -> Found:
        began = time.perf_counter()
        index = faiss.IndexFlatIP(data.document_vectors.shape[1])
        index.add(data.document_vectors)
        added = time.perf_counter()
        _, near = index.search(data.query_vectors, depth)
        return near, {"add": added - began, "search": time.perf_counter() - added}

    return run


class PreparedModel:
    """What `mine_hard_negatives` asks of a model, for vectors that were made before and lie in memory.

    It is told to compare by inner product: by cosine, its default, it would scale unit vectors to unit length again.
    """

    device = "cpu"

    def __init__(self, data: Data) -> None:
        from sentence_transformers.util import dot_score, pairwise_dot_score

        self._data = data
        self.similarity, self.similarity_pairwise = dot_score, pairwise_dot_score

    def encode_query(self, texts: list[str], **options: object) -> np.ndarray:
        assert len(texts) == len(self._data.queries)  # all differ, so none was left out and the order is the same
        return self._data.query_vectors

    def encode_document(self, texts: list[str], **options: object) -> np.ndarray:
        assert len(texts) == len(self._data.documents)
        return self._data.document_vectors

    def get_embedding_dimension(self) -> int:
        return self._data.document_vectors.shape[1]


def theirs(output_format: str, **options: Any) -> Run:
    """`mine_hard_negatives` with corresponding arguments, from a dataset of pairs to a dataset with negatives."""
    import datasets
    from sentence_transformers.util import mine_hard_negatives

    datasets.disable_progress_bars()

    def run(data: Data, k: int, depth: int) -> Found:
        positives = [data.documents[place] for place in data.positives]
        pairs = datasets.Dataset.from_dict({"query": data.queries, "positive": positives})
        began = time.perf_counter()
        found = mine_hard_negatives(
            pairs,
            PreparedModel(data),  # type: ignore[arg-type]
            corpus=data.documents,
            range_max=depth - 1,  # it fetches as many more as a query has positives: one
            relative_margin=1 - THRESHOLD,
            num_negatives=k,
            sampling_strategy="top",
            output_format=output_format,  # type: ignore[arg-type]
            output_scores=True,
            verbose=False,
            **options,
        )
        seconds = time.perf_counter() - began
        return _padded(_places(data, found, output_format), k), {"all": seconds}

    return run


def _places(data: Data, found: Any, output_format: str) -> list[list[int]]:
    """Places of the negatives that a dataset gives as texts; not part of what is timed."""
    place = {text: number for number, text in enumerate(data.documents)}
    chosen: dict[str, list[int]] = {query: [] for query in data.queries}
    if output_format == "triplet":
        for query, negative in zip(found["query"], found["negative"], strict=True):
            chosen[query].append(place[negative])
    else:
        for query, texts in zip(found["query"], found["positive"], strict=True):
            chosen[query] = [place[text] for text in texts[1:]]
    return list(chosen.values())


def _padded(rows: list[list[int]], k: int) -> np.ndarray:
    return np.array([[*row, *[-1] * (k - len(row))] for row in rows], dtype=np.int64).reshape(len(rows), k)


# name -> what makes its run, and whether its vectors are in memory (all but ours need that)
CONTENDERS: dict[str, tuple[Callable[[], Run], bool]] = {
    "nvembed, auto": (lambda: ours("auto"), False),
    "nvembed, float32": (lambda: ours("float32"), False),
    "sentence-transformers, faiss, triplets": (lambda: theirs("triplet", use_faiss=True), True),
    "sentence-transformers, faiss, lists": (lambda: theirs("labeled-list", use_faiss=True), True),
    "sentence-transformers, plain, triplets": (lambda: theirs("triplet"), True),
    "sentence-transformers, plain, lists, 1,024 at once": (
        lambda: theirs("labeled-list", faiss_batch_size=1024),
        True,
    ),
    "search: nvembed, auto": (lambda: our_search("auto"), False),
    "search: nvembed, float32": (lambda: our_search("float32"), False),
    "search: faiss IndexFlatIP": (faiss_search, True),
}


def work(name: str, folder: Path, threads: int) -> None:
    """A contender's process: load, then run for each line that comes in; answers in JSON lines."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not be taken for an answer
    import torch

    torch.set_num_threads(threads)
    make_run, in_memory = CONTENDERS[name]
    run, data = make_run(), read(folder, in_memory=in_memory)
    _tell(answers)
    for line in sys.stdin:
        asked = json.loads(line)
        part = data.part(asked["queries"], asked["documents"])
        with _watched(asked["watch"]) as most:
            began = time.perf_counter()
            chosen, parts = run(part, asked["k"], asked["depth"])
            seconds = parts.pop("all", time.perf_counter() - began)
        np.save(folder / f"{name}.npy", chosen)
        _tell(answers, seconds=seconds, parts=parts, anonymous_gb=most.get("gb"))


@contextmanager
def _watched(watch: bool) -> Iterator[dict[str, float]]:
    """The most anonymous memory held meanwhile, looked at a hundred times a second: not so in runs that are timed."""
    most: dict[str, float] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            most["gb"] = max(most.get("gb", 0.0), (_status("RssAnon") or 0) * 1024 / 1e9)

    watcher = threading.Thread(target=look, daemon=True)
    if watch and _status("RssAnon"):
        watcher.start()
    yield most
    ended.set()
    if watcher.ident:
        watcher.join()


def _tell(answers: Any, **facts: Any) -> None:
    """One line for the parent, with the peak memory so far."""
    answers.write(json.dumps({**facts, "peak_gb": _peak_gb()}) + "\n")
    answers.flush()


def _peak_gb() -> float:
    """All memory that this process ever held at once: libraries, texts, and pages of mapped files that were read.

    On Linux by VmHWM: `ru_maxrss` starts at what the parent held when it started this process.
    """
    kib = _status("VmHWM")
    if kib is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    return kib * 1024 / 1e9


def _status(name: str) -> int | None:
    """A line of /proc/self/status in KiB; None where there is no such file."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("threads", type=int)
    given = parser.parse_args()
    work(given.name, given.folder, given.threads)
