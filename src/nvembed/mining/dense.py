"""A teacher that embeds: queries and documents become vectors once, and nearness is their inner product."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.core.digests import digest_json
from nvembed.core.state import hold, state_folder
from nvembed.encoding import encode_blocks
from nvembed.encoding.encode import plan_cached
from nvembed.encoding.parts import Reordered
from nvembed.mining.pools import Pool, Shelf
from nvembed.mining.search import Rows, pair_scores, top_k

if TYPE_CHECKING:
    from nvembed.encoding.parts import Parts
    from nvembed.mining.approximate import ApproximateIndex
    from nvembed.mining.shards import Neighbours
    from nvembed.modeling import NVEmbedModel
    from nvembed.recipe import Mining, Teacher

FORMAT = 1


class DenseTeacher:
    """One embedding model on one pool.

    Vectors and found neighbours are kept in the state: another threshold, another rule or another number of negatives
    searches nothing anew, and a killed run goes on with what is missing.
    """

    def __init__(
        self,
        model: NVEmbedModel,
        teacher: Teacher | None,
        mining: Mining,
        pool: Pool,
        device: str,
        *,
        share: tuple[int, int] = (0, 1),
        known: Neighbours | None = None,
    ) -> None:
        """Embed what the state lacks.

        Args:
            model, teacher: the model, and what the recipe says of it; None: a model of this project, which reads each
                query under its row's instruction. device: where to search.
            share: (number, of): every so-manieth block of the passages alone, which then are all that is searched.
            known: what shards found already.
        """
        self._model, self._teacher, self._mining, self._pool, self._device = model, teacher, mining, pool, device
        self._share, self._known = share, known
        before = teacher.document_prefix if teacher else ""
        self._queries = self._embed_queries()
        self._corpus = self._embed(pool.corpus, "embedding passages", share, prefix=before)
        others = self._embed(pool.others, "embedding other texts", share, prefix=before)
        self._documents = self._corpus + others if len(pool.others) else self._corpus

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the model, whose weights are read for it."""
        return self._model.fingerprint()

    def nearest(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Documents and scores of the nearest candidates, best first: (q, min(depth, corpus)) each.

        Of a share the documents are numbered within it.
        """
        if self._known is not None and depth <= self._mining.depth:
            merged = self._known.nearest(queries, depth)
            if merged is not None:
                return merged
        made = {
            "format": FORMAT,
            "vectors": self._settings,
            "queries": digest_json(self._pool.queries.keys[queries].tolist()),
            "documents": [self._pool.corpus.digest, *self._share],
            "depth": depth,
            "search": self._mining.search.model_dump(mode="json", include={"index", "effort", "seed"}),
        }
        return kept_search(made, lambda: self._search(self._queries[queries], depth))

    def pair_scores(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """(q, m) float32, the score of each query with documents (q, m), candidates or not; -inf for a document -1."""
        scores = pair_scores(self._queries[queries], self._documents, np.maximum(documents, 0))
        scores[documents < 0] = -np.inf
        return scores

    def _search(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        if self._mining.search.index == "exact":
            return top_k(queries, self._corpus, depth, device=self._device, precision=self._mining.search.precision)
        return self._search_index(queries, depth)

    def _search_index(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """About the nearest, by an index; their scores are exact all the same."""
        asked, depth = self._mining.search, min(depth, len(self._corpus))
        found = self._index.search(queries, depth, effort=asked.effort)
        exact = pair_scores(queries, self._corpus, np.maximum(found, 0))
        scores = np.where(found < 0, np.float32(-np.inf), exact)
        order = np.lexsort((found, -scores), axis=1)
        return np.take_along_axis(found, order, axis=1), np.take_along_axis(scores, order, axis=1)

    @cached_property
    def _index(self) -> ApproximateIndex:
        from nvembed.mining.approximate import ApproximateIndex

        return ApproximateIndex(self._corpus, self._mining.search.index, seed=self._mining.search.seed)

    def _embed_queries(self) -> Rows:
        pool, label = self._pool, "embedding queries"
        if self._teacher is not None:
            return self._embed(pool.queries, label, prefix=self._teacher.query_prefix)
        order = np.argsort(pool.instruction_of_query, kind="stable")
        found = [
            self._embed(pool.queries.some(pool.instruction_of_query == number), label, instruction=instruction)
            for number, instruction in enumerate(pool.instructions)
        ]
        return Reordered(functools.reduce(operator.add, found), np.argsort(order, kind="stable"))

    def _embed(
        self, shelf: Shelf, label: str, share: tuple[int, int] = (0, 1), *, prefix: str = "", instruction: str = ""
    ) -> Parts:
        number, of = share
        return encode_blocks(
            self._model,
            shelf.keys,
            shelf.texts,
            prefix=prefix,
            instruction=instruction,
            only=lambda block: block % of == number,
            batch_tokens=self._mining.batch_tokens,
            label=label,
        )

    @property
    def _settings(self) -> dict[str, Any]:
        plan = plan_cached(self._model)
        teacher = self._teacher
        before = [teacher.query_prefix, teacher.document_prefix] if teacher else self._pool.instructions
        return {"model": self.fingerprint, "before": before, **plan.settings(self._model)}


def load_teacher(teacher: Teacher, device: str) -> NVEmbedModel:
    """The model, which reads texts as its own card says."""
    from nvembed.modeling import NVEmbedModel

    return NVEmbedModel.from_card(
        teacher.backbone,
        revision=teacher.revision,
        pooling=teacher.pooling,
        max_length=teacher.max_length,
        trust_remote_code=teacher.trust_remote_code,
        device=device,
    )


def kept_search(
    made: dict[str, Any], search: Callable[[], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """What a search found, from the state if it was made there already; else `search` is called and its answer kept."""
    folder = state_folder("searches", digest_json(made))
    file = folder / "found.npz"
    with hold(folder):
        if not file.is_file():
            documents, scores = search()
            write_found(file, documents, scores)
            return documents, scores
    return read_found(file)


def write_found(file: Path, documents: np.ndarray, scores: np.ndarray) -> None:
    """Write what a search found whole or not at all."""
    aside = file.with_name(f".{file.name}.partial")
    with aside.open("wb") as stream:
        np.savez(stream, documents=documents, scores=scores)
    aside.replace(file)


def read_found(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Documents and scores, as `write_found` wrote them."""
    with np.load(file, allow_pickle=False) as found:
        return found["documents"], found["scores"]
