"""Mining divided among tasks: each embeds and searches its share of the passages, one merges what they found.

A share is every n-th block of a pool's passages (`encoding.blocks`), so no vector depends on how the work is divided,
and each score is that of one pair alone (`search.pair_scores`). The nearest of all are among the nearest of each share:
merged by score, then by document, they are what one search would find. Vectors go to the state folder, where the
merging task finds them for positives and deeper searches if it is shared; where it is not, it embeds anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nvembed.core.artifacts import Manifest, output_folder, read_manifest, write_manifest
from nvembed.core.digests import canonical_json
from nvembed.core.errors import UserError
from nvembed.core.state import state_root
from nvembed.data.text_file import text_file
from nvembed.encoding.blocks import cut_blocks
from nvembed.mining.dense import DenseTeacher, read_found, write_found
from nvembed.mining.pools import Pool, read_pools
from nvembed.mining.selection import QUERIES

if TYPE_CHECKING:
    from nvembed.recipe import Mining, Resources

KIND = "neighbours"


def plan_shards(mining: Mining, shards: int) -> list[str]:
    """Shards as the pipeline hands them on. One alone has nothing to do: the merging task does it all."""
    count = shards if mining.enabled else 1
    return [canonical_json({"number": number, "of": count}) for number in range(count)]


def shard_from_json(text: str) -> tuple[int, int]:
    """Number and count back. Raises UserError if it is no shard."""
    try:
        tree = json.loads(text)
        number, of = int(tree["number"]), int(tree["of"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"shard {text[:60]!r}: is none ({error}); plan the shards anew") from error
    if not 0 <= number < of:
        raise UserError(f"shard {number} of {of}: there is none such; plan the shards anew")
    return number, of


def mine_shard(mining: Mining, resources: Resources, dataset: Path, number: int, of: int, out: Path) -> None:
    """Embed a share of the passages, search it for every query, and write what is nearest (kind `neighbours`).

    Raises:
        UserError: as `mine`.
    """
    from nvembed.mining.teachers import Teachers

    source = read_manifest(dataset, kind="dataset")
    with output_folder(out) as folder:
        if of > 1:
            with text_file(state_root() / "tmp") as file:
                teachers = Teachers(mining, resources)
                for pool in read_pools(dataset, source, file):
                    for teacher, scorer in teachers.dense_on(pool, share=(number, of)):
                        _search(folder, pool, teacher, scorer, mining, number, of)
        write_manifest(
            folder,
            kind=KIND,
            section=mining.model_dump(mode="json"),
            inputs={"dataset": source.content},
            counts={"number": number, "of": of},
        )


def _search(folder: Path, pool: Pool, teacher: int, scorer: DenseTeacher, mining: Mining, number: int, of: int) -> None:
    if mining.search.index != "exact":
        return  # an index is of the whole; the shard has embedded its share of it
    blocks = [block for place, block in enumerate(cut_blocks(pool.corpus.keys)) if place % of == number]
    documents = np.concatenate([np.empty(0, np.int64), *(np.arange(block.start, block.stop) for block in blocks)])
    for start in range(0, len(pool.queries), QUERIES):
        queries = np.arange(start, min(start + QUERIES, len(pool.queries)))
        found, scores = scorer.nearest(queries, mining.depth)
        write_found(folder / _name(pool, teacher, start), documents[found], scores)


class Neighbours:
    """What all shards found for one pool and one teacher."""

    def __init__(self, folders: Sequence[Path], pool: Pool, teacher: int) -> None:
        self._folders, self._pool, self._teacher = folders, pool, teacher

    def nearest(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The `depth` nearest of a whole run of queries; None where the shards did not look for them."""
        start = int(queries[0])
        files = [folder / _name(self._pool, self._teacher, start) for folder in self._folders]
        if start % QUERIES or not files or not all(file.is_file() for file in files):
            return None
        found = [read_found(file) for file in files]
        documents = np.concatenate([one for one, _ in found], axis=1)
        scores = np.concatenate([one for _, one in found], axis=1)
        if len(documents) != len(queries):
            return None
        order = np.lexsort((documents, -scores), axis=1)[:, :depth]
        return np.take_along_axis(documents, order, axis=1), np.take_along_axis(scores, order, axis=1)


def check_shards(folders: Sequence[Path], mining: Mining, source: Manifest) -> list[Path]:
    """The shards' folders by number; none where there was nothing to divide.

    Raises:
        UserError: one is missing or there twice, or was made of another dataset or with another section.
    """
    found: dict[int, Path] = {}
    of = 1
    for folder in folders:
        manifest = read_manifest(folder, kind=KIND)
        number, of = manifest.counts["number"], manifest.counts["of"]
        if manifest.inputs["dataset"] != source.content or manifest.section != mining.model_dump(mode="json"):
            raise UserError(f"{folder}: was mined of another dataset or with another section; mine the shards anew")
        if number in found:
            raise UserError(f"{folder}: shard {number} is there twice; give each once")
        found[number] = folder
    if folders and (missing := sorted(set(range(of)) - set(found))):
        raise UserError(f"shard {missing[0]} of {of} is missing; mine it, then merge")
    return [found[number] for number in sorted(found)] if of > 1 else []


def _name(pool: Pool, teacher: int, start: int) -> str:
    return f"{pool.corpus.digest[:16]}-{pool.queries.digest[:16]}-{teacher}-{start:09d}.npz"
