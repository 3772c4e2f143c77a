"""Approximate nearest neighbours by a faiss index, where a recipe asks for one: much faster, and some are missed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from nvembed.core.errors import UserError
from nvembed.core.progress import Progress
from nvembed.mining.search import Rows

DOCUMENT_BLOCK, QUERY_BLOCK = 16384, 1024
SAMPLE, SAMPLE_OF_LIST = 32768, 64  # documents trained on: so many, or so many for each list where that is more
_EXAMPLES = "'HNSW32' (a graph) or 'IVF1024,Flat' (1024 lists)"


class ApproximateIndex:
    """An index by inner product, built from vectors that may be memory-mapped: blocks of them are read.

    The same vectors, factory, seed and block give the same index on one machine. Of a graph that holds from faiss 1.15
    on alone, whatever the number of threads; before, its edges depended on which thread came first.

    Attributes:
        lists: how many lists an inverted file has, 0 for other kinds.
    """

    def __init__(self, documents: Rows, factory: str, *, seed: int = 17, block: int = DOCUMENT_BLOCK) -> None:
        """Build the index.

        Args:
            documents: (n, dim) float32.
            factory: faiss's description of an index, as `faiss.index_factory` takes it.
            seed: draws the sample that lists and codes are trained on, and the lists' first centres.
            block: documents added at once.

        Raises:
            UserError: faiss is not installed, `factory` is none that faiss knows or does not fit the documents' width
                or number, or a vector is not finite.
        """
        self._faiss = _import_faiss()
        self._where = f"ann factory {factory!r}"
        self._width = documents.shape[1]
        self._index = self._make(factory)
        inverted = self._faiss.try_extract_index_ivf(self._index)
        self.lists = int(inverted.nlist) if inverted is not None else 0
        if self.lists > len(documents):
            fit = max(1, round(len(documents) ** 0.5))
            raise UserError(f"{self._where}: has more lists than the {len(documents)} documents; ask for IVF{fit}")
        if inverted is not None:
            inverted.cp.seed = seed
            inverted.cp.min_points_per_centroid = 1  # faiss prints its warning past the log
        self._build(documents, seed, block)

    def search(self, queries: np.ndarray, fetch: int, *, effort: int | None = None) -> np.ndarray:
        """Candidates near each query.

        Args:
            queries: (q, dim) float32.
            fetch: how many candidates.
            effort: lists looked into (faiss's `nprobe`; None: one in 16, at least 8), or nodes kept while a graph is
                walked (`efSearch`; None: twice `fetch`, at least 64). More takes longer and finds more.

        Returns:
            (q, fetch) int64 rows of the documents, best first by the index's own scores; -1 where it found no more.

        Raises:
            UserError: the queries' width is not the documents'.
        """
        if queries.shape[1] != self._width:
            raise UserError(
                f"{self._where}: queries have {queries.shape[1]} dimensions, documents {self._width}; "
                "both must come from one teacher"
            )
        self._look_wide(fetch, effort)
        found = np.empty((len(queries), fetch), dtype=np.int64)
        progress = Progress("searching", len(queries))
        for start in range(0, len(queries), QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, len(queries))
            found[start:stop] = self._index.search(np.ascontiguousarray(queries[start:stop], np.float32), fetch)[1]
            progress.update(stop)
        return found

    def _make(self, factory: str) -> Any:
        if re.search(r"[A-Za-z]0+(?!\d)", factory):  # faiss would divide by it
            raise UserError(f"{self._where}: has a size of 0; give for example {_EXAMPLES}")
        try:
            return self._faiss.index_factory(self._width, factory, self._faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise UserError(
                f"{self._where}: faiss makes no index for inner products of {self._width} dimensions from it "
                f"({_reason(error)}); give for example {_EXAMPLES}"
            ) from error

    def _build(self, documents: Rows, seed: int, block: int) -> None:
        progress = Progress("indexing", len(documents))
        try:
            if not self._index.is_trained:
                with self._one_thread() if self._is_transformed() else contextlib.nullcontext():
                    self._index.train(self._sample(documents, seed))
            for start in range(0, len(documents), block):
                self._index.add(self._finite(documents[start : start + block], range(start, len(documents))))
                progress.update(min(start + block, len(documents)))
        except RuntimeError as error:
            raise UserError(
                f"{self._where}: faiss cannot build it from {len(documents)} documents ({_reason(error)}); "
                f"give for example {_EXAMPLES}"
            ) from error

    def _sample(self, documents: Rows, seed: int) -> np.ndarray:
        """The documents to train on, in the order of their rows."""
        size = min(len(documents), max(SAMPLE, SAMPLE_OF_LIST * self.lists))
        rows = np.sort(np.random.default_rng(seed).choice(len(documents), size, replace=False, shuffle=False))
        return self._finite(documents[rows], rows)

    def _finite(self, vectors: np.ndarray, rows: range | np.ndarray) -> np.ndarray:
        """The vectors as faiss wants them. Raises UserError for one that is not finite, by its number in `rows`."""
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            row = rows[int(np.argmin(finite))]
            raise UserError(f"{self._where}: vector {row} of the documents is not finite; check the teacher")
        return np.ascontiguousarray(vectors, np.float32)

    def _look_wide(self, fetch: int, effort: int | None) -> None:
        """Set what a search looks at, as far as this kind of index has it."""
        space = self._faiss.ParameterSpace()
        space.initialize(self._index)
        known = {space.parameter_ranges.at(place).name for place in range(space.parameter_ranges.size())}
        lists = min(self.lists, effort or max(8, -(-self.lists // 16)))
        wanted = {
            "nprobe": lists,
            "quantizer_efSearch": 2 * lists,
            "efSearch": max(fetch, effort or max(64, 2 * fetch)),
        }
        for name in known & set(wanted):
            space.set_index_parameter(self._index, name, wanted[name])

    def _is_transformed(self) -> bool:
        """Whether vectors are rotated first (PCA, OPQ), by a matrix that several threads never find quite alike."""
        return isinstance(self._faiss.downcast_index(self._index), self._faiss.IndexPreTransform)

    @contextlib.contextmanager
    def _one_thread(self) -> Iterator[None]:
        before = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1)
        try:
            yield
        finally:
            self._faiss.omp_set_num_threads(before)


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact neighbours that were found, over all queries together.

    Args:
        found: (q, m) rows in any order; -1 for none.
        exact: (q, k) rows; -1 for none.

    Returns:
        0 to 1; 1 if there is nothing to find.
    """
    wanted = exact >= 0
    width = 1 + max(int(found.max(initial=0)), int(exact.max(initial=0)))
    first = np.arange(len(exact), dtype=np.int64)[:, None] * width  # one number a pair, so that one look-up serves
    hits = np.isin((first + exact)[wanted], (first + found)[found >= 0])
    return float(hits.mean()) if len(hits) else 1.0


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UserError("mining by an ann index: faiss is not installed; pip install 'nvembed[ann]'") from error
    return faiss


def _reason(error: RuntimeError) -> str:
    """What faiss says, without where in its source it says so."""
    return " ".join(str(error).split()).rsplit("Error: ", 1)[-1].split(": ", 1)[-1][:160]
