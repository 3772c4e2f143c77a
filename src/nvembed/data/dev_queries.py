"""A small dev set of a mix: some queries of each retrieval source, with their passages, kept out of training.

Queries are drawn by the digests of their texts, so that the draw hangs on content and seed alone, and a query that
stands in several sources is drawn from all of them. Every example of a
drawn query is held out, and training examples that hold a drawn query in any of their texts are dropped by the rules
of decontamination. Passages stay open to training, as they do in every retrieval benchmark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.core.progress import track
from nvembed.data.decontamination import Decontaminator
from nvembed.data.evalsets import write_retrieval
from nvembed.data.example import Pair
from nvembed.data.references import Reference

if TYPE_CHECKING:
    from nvembed.data.merging import Blocks
    from nvembed.recipe import Data
    from nvembed.recipe.decontamination import Decontamination


@dataclass
class DevQueries:
    """What is held out: `keys` by source (sorted digests of queries), and the pairs with their instructions."""

    keys: dict[str, np.ndarray]
    pairs: list[Pair]
    instructions: dict[str, str]

    def holds(self, source: str, keys: np.ndarray) -> np.ndarray:
        """Which of a source's queries are held out: (n,) bool."""
        return np.isin(keys, self.keys.get(source, np.empty(0, np.uint64)))

    def decontaminator(self, section: Decontamination) -> Decontaminator:
        """What finds the held-out queries in training examples."""
        texts = dict.fromkeys(pair.query for pair in self.pairs)
        references = [Reference("dev/retrieval", text) for text in texts]
        return Decontaminator(section.model_copy(update={"bm25": {}}), references)

    def write(self, folder: Path, instruction: str) -> dict[str, int]:
        """Write the eval set; its corpus is the held-out passages and the negatives that came with them."""
        others = dict.fromkeys(text for pair in self.pairs for text in pair.negatives)
        return write_retrieval(folder, self.pairs, instruction, instructions=self.instructions, others=list(others))


def draw_dev(data: Data, gathered: Sequence[Blocks]) -> DevQueries:
    """Draw `data.dev_queries` queries of every retrieval source; of a small source at most a tenth."""
    keys: dict[str, np.ndarray] = {}
    pairs: list[Pair] = []
    instructions: dict[str, str] = {}
    retrieval = [blocks for blocks in gathered if data.sources[blocks.name].task_type == "retrieval"]
    for blocks in track(retrieval, "holding out queries"):
        drawn = _drawn(data, blocks)
        keys[blocks.name] = drawn
        for file in blocks.files:
            for row in _rows(file, drawn):
                pairs.append(Pair(row["query"], row["positive"], tuple(row["negatives"]), task=blocks.name))
                instructions.setdefault(row["query"], row["query_instruction"])
    return DevQueries(keys, pairs, instructions)


def _drawn(data: Data, blocks: Blocks) -> np.ndarray:
    import pyarrow.parquet as pq

    salt = hashlib.blake2b(f"{data.seed}/dev".encode(), digest_size=8).digest()
    mask = np.uint64(int.from_bytes(salt, "little"))
    least, different = np.empty(0, np.uint64), 0
    for file in blocks.files:
        keys = np.unique(pq.read_table(file, columns=["query_key"])["query_key"].to_numpy() ^ mask)
        different += len(keys)
        least = np.unique(np.concatenate([least, keys]))[: data.dev_queries]
    return np.sort(least[: max(different // 10, 1)] ^ mask)


def _rows(file: Path, keys: np.ndarray) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    there = np.isin(pq.read_table(file, columns=["query_key"])["query_key"].to_numpy(), keys)
    if not there.any():
        return []
    columns = ["query", "positive", "negatives", "query_instruction"]
    rows: list[dict[str, Any]] = pq.read_table(file, columns=columns).filter(pa.array(there)).to_pylist()
    return rows
