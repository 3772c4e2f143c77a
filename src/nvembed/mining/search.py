"""Exact nearest neighbours by inner product, in memory that does not grow with the corpus.

What is exact: the k greatest scores, each the inner product of one pair summed in double precision and rounded to
float32, ties by the smaller document number. That does not depend on block sizes, device, precision or threads, so a
corpus searched in parts and merged gives the same answer.

How it is fast: a first pass in bf16, where the processor has instructions for it, or in float32 keeps a few more than
asked (`scan`). How far an approximate score can lie from the true one is bounded by the rounding errors of the very
vectors at hand (Cauchy-Schwarz), so of each query it is known whether a document that was left out could belong among
the k. Where it could, that query is searched again in float32 for all that reach its k-th score.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from nvembed.core.errors import UserError
from nvembed.core.progress import Progress
from nvembed.mining.scan import GROUP, Scan, choose_product, exact_sums

if TYPE_CHECKING:
    from nvembed.modeling.batching import Precision

QUERY_BLOCK = 512
_DOCUMENT_BLOCK = (8192, 131_072)  # documents looked at together, at least and at most
_BLOCK_NUMBERS = 2**26  # of their vectors, between the two
_QUERIES_AT_ONCE = 65_536  # whose lists are held while the documents go by
_ROWS = 2048  # documents brought into the products' type at once
_NUMBERS = 2**18  # of document vectors scored at once: as doubles they fit into a core's cache
_ROUNDING = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8}  # of a product that is stored; twice the half ulp


class Rows(Protocol):
    """Vectors, one a row: an array, a memory map, or `encoding.shards.Parts`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> np.ndarray: ...


def top_k(
    queries: np.ndarray,
    documents: Rows,
    k: int,
    *,
    device: str = "cpu",
    precision: Precision = "auto",
    query_block: int = QUERY_BLOCK,
    document_block: int | None = None,
    label: str = "searching",
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` documents with the greatest inner product for each query.

    Args:
        queries: (q, dim) float32.
        documents: (n, dim) float32; may be memory-mapped.
        k: how many; with fewer documents than `k`, all of them.
        device: where the products are computed.
        precision: of the first pass; `auto` is bf16 where the device is faster in it. The answer is the same.
        query_block, document_block: rows at once; `query_block * document_block` scores exist at a time. None: as many
            as a block of vectors of some hundred megabytes holds.
        label: what the progress line says.

    Returns:
        indices: (q, min(k, n)) int64, best first, ties by the smaller index.
        scores: the same shape, float32.

    Raises:
        UserError: vectors that hold NaN or infinity, or whose widths differ.
    """
    _check(queries, documents)
    k = min(k, len(documents))
    indices = np.empty((len(queries), k), dtype=np.int64)
    scores = np.empty((len(queries), k), dtype=np.float32)
    if not k:
        return indices, scores
    search = _Search(documents, k, _type(precision, device), device, query_block, document_block)
    progress = Progress(label, len(queries) * len(documents))
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        base = start * len(documents)
        with exact_sums():
            found = search.run(queries[part], lambda done, base=base: progress.update(base + done))  # type: ignore[misc]
        indices[part], scores[part] = found
    progress.close()
    return indices, scores


def pair_scores(queries: np.ndarray, documents: Rows, indices: np.ndarray) -> np.ndarray:
    """Inner product of query i with each document `indices[i, j]`: the one routine that every score comes from.

    Args:
        queries: (q, dim); documents: (n, dim); indices: (q, m) rows of `documents`.

    Returns:
        (q, m) float32, each summed in double precision, so that a pair scores alike in any company.
    """
    scores = np.empty(indices.shape, dtype=np.float32)
    rows = max(1, _NUMBERS // max(1, indices.shape[1] * documents.shape[1]))
    for start in range(0, len(indices), rows):
        part = slice(start, start + rows)
        near = _gather(documents, indices[part].ravel()).double().view(*indices[part].shape, -1)
        query = torch.from_numpy(np.array(queries[part], dtype=np.float64))
        scores[part] = (near * query[:, None, :]).sum(dim=2).float().numpy()
    return scores


class _Search:
    """One corpus, searched for any queries."""

    def __init__(
        self, documents: Rows, k: int, dtype: torch.dtype, device: str, query_block: int, document_block: int | None
    ) -> None:
        self.documents, self.k, self.dtype, self.device = documents, k, dtype, device
        self.query_block = query_block
        least, most = _DOCUMENT_BLOCK
        document_block = document_block or max(least, min(most, _BLOCK_NUMBERS // max(1, documents.shape[1])))
        self.document_block = -(-document_block // GROUP) * GROUP
        spare = max(64, k) if dtype == torch.bfloat16 else 16
        self.keep = min(k + spare, len(documents))
        self.norm = self.lost = 0.0  # greatest length of a document, and of what rounding took from one

    def run(self, queries: np.ndarray, report: Any) -> tuple[np.ndarray, np.ndarray]:
        """(q, k) indices and scores. `report` hears how many pairs are done."""
        rounded = torch.from_numpy(np.array(queries, dtype=np.float32)).to(self.device).to(self.dtype)
        scans: list[Scan] = []
        done = 0
        for first, block in self._blocks():
            if not scans:
                product = choose_product(rounded, block)
                scans = [Scan(part, self.keep, product) for part in rounded.split(self.query_block)]
            for scan in scans:
                scan.look(block, first)
                done += len(scan.scores) * len(block)
                report(done)
        approximate = torch.cat([scan.scores for scan in scans]).cpu().double().numpy()
        numbers = torch.cat([scan.numbers for scan in scans]).cpu().numpy()
        slack = self._slack(queries, rounded)
        indices, scores = self._order(queries, approximate, numbers, slack)
        if self.keep < len(self.documents):
            edge = approximate[:, -1]
            unsure = np.flatnonzero(scores[:, -1] <= edge + slack + _ROUNDING[self.dtype] * np.abs(edge))
            for start in range(0, len(unsure), self.query_block):
                rows = unsure[start : start + self.query_block]
                indices[rows], scores[rows] = self._again(queries[rows], indices[rows], scores[rows])
        return indices, scores

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        for start in range(0, len(self.documents), self.document_block):
            stop = min(start + self.document_block, len(self.documents))
            width = self.documents.shape[1]
            block = torch.empty(stop - start, width, dtype=self.dtype, device=self.device)
            for at in range(start, stop, _ROWS):  # so few that they stay in the cache
                whole = torch.from_numpy(np.array(self.documents[at : min(at + _ROWS, stop)], dtype=np.float32))
                lengths = torch.linalg.vector_norm(whole, dim=1)
                _refuse_unfinished(lengths, "documents", at)
                self.norm = max(self.norm, float(lengths.max()))
                whole = whole.to(self.device)
                part = block[at - start : at - start + len(whole)]
                part.copy_(whole)
                if self.dtype != torch.float32:
                    lost = torch.linalg.vector_norm(whole - part.float(), dim=1)
                    self.lost = max(self.lost, float(lost.max()))
            yield start, block

    def _slack(self, queries: np.ndarray, rounded: torch.Tensor) -> np.ndarray:
        """(q,) how far the exact score of a pair can lie from its product before the product is stored.

        |q·d - q'·d'| <= |q - q'| |d| + |q'| |d - d'|, and a float32 sum of n products adds n rounding errors.
        """
        kept = rounded.float().cpu().numpy().astype(np.float64)
        lost = np.linalg.norm(queries - kept, axis=1)
        length = np.linalg.norm(kept, axis=1)
        sums = (queries.shape[1] + 2) * 2.0**-24
        return lost * self.norm + length * self.lost + sums * length * (self.norm + self.lost)

    def _order(
        self, queries: np.ndarray, approximate: np.ndarray, numbers: np.ndarray, slack: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best by exact score. Of what was kept only that can be among them which lies near the k-th."""
        indices = np.empty((len(queries), self.k), dtype=np.int64)
        scores = np.empty((len(queries), self.k), dtype=np.float32)
        kth = approximate[:, self.k - 1]
        floor = kth - 2 * (slack + 2 * _ROUNDING[self.dtype] * (np.abs(kth) + slack))
        needed = (approximate >= floor[:, None]).sum(axis=1)
        like = np.argsort(needed, kind="stable")  # queries that need like numbers together, so that none waits for one
        rows = max(1, 16 * _NUMBERS // (self.keep * queries.shape[1]))
        for start in range(0, len(queries), rows):
            part = like[start : start + rows]
            found = numbers[part, : max(self.k, int(needed[part[-1]]))]
            indices[part], scores[part] = _best(found, pair_scores(queries[part], self.documents, found), self.k)
        return indices, scores

    def _again(self, queries: np.ndarray, indices: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Search in float32 for every document that may reach the k-th score found so far, and order all of them."""
        rounded = torch.from_numpy(np.array(queries, dtype=np.float32)).to(self.device)
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        slack = (2 * queries.shape[1] + 4) * 2.0**-24 * lengths * (self.norm + self.lost)
        product, found = None, _Found(queries, self.documents, indices, scores)
        for start in range(0, len(self.documents), self.document_block):
            block = torch.from_numpy(np.array(self.documents[start : start + self.document_block], dtype=np.float32))
            block = block.to(self.device)
            product = product or choose_product(rounded, block)
            floor = torch.from_numpy((found.scores[:, -1] - slack).astype(np.float32) - 1e-7).to(self.device)
            row, column = (product(rounded, block.T) >= floor[:, None]).nonzero(as_tuple=True)
            found.add(row.cpu().numpy(), column.cpu().numpy() + start)
        return found.settle()


class _Found:
    """The k best of each query so far, (q, k), and documents that may be among them, scored when there are many.

    Attributes:
        indices, scores: of what is settled.
    """

    def __init__(self, queries: np.ndarray, documents: Rows, indices: np.ndarray, scores: np.ndarray) -> None:
        self._queries, self._documents = queries, documents
        self.indices, self.scores = indices, scores
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, row: np.ndarray, number: np.ndarray) -> None:
        """Pairs of a query and a document."""
        for at in range(0, len(row), _NUMBERS):
            self._waiting.append((row[at : at + _NUMBERS], number[at : at + _NUMBERS]))
            if sum(len(rows) for rows, _ in self._waiting) >= _NUMBERS:
                self.settle()

    def settle(self) -> tuple[np.ndarray, np.ndarray]:
        """Score what waits and keep the k best of each query, each document once."""
        q, k = self.indices.shape
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return self.indices, self.scores
        row, number = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
        exact = pair_scores(self._queries[row], self._documents, number[:, None])[:, 0]
        rows = np.concatenate([np.repeat(np.arange(q), k), row])
        numbers = np.concatenate([self.indices.ravel(), number])
        values = np.concatenate([self.scores.ravel(), exact])
        order = np.lexsort((numbers, -values, rows))
        rows, numbers, values = rows[order], numbers[order], values[order]
        # A document met twice has one score, so its two entries stand side by side.
        fresh = np.r_[True, (rows[1:] != rows[:-1]) | (numbers[1:] != numbers[:-1])]
        rows, numbers, values = rows[fresh], numbers[fresh], values[fresh]
        places = np.searchsorted(rows, np.arange(q))[:, None] + np.arange(k)
        self.indices, self.scores = numbers[places], values[places]
        return self.indices, self.scores


def _best(documents: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k greatest scores of each row, ties by the smaller document: one sort of integers that hold both.

    The bits of a float32, those of a negative one turned, order as its value does; 0.0 and -0.0 are made one first.
    """
    bits = (scores + np.float32(0)).view(np.int32).astype(np.int64)
    ordered = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    packed = torch.from_numpy((ordered << 32) | (0xFFFFFFFF - documents))
    best = packed.topk(k, dim=1).values.numpy()
    order = (best >> 32).astype(np.int32)
    found = np.where(order < 0, order ^ np.int32(0x7FFFFFFF), order).astype(np.int32).view(np.float32)
    return 0xFFFFFFFF - (best & 0xFFFFFFFF), found


def _gather(documents: Rows, numbers: np.ndarray) -> torch.Tensor:
    """(m, dim) float32 rows; of an array in memory or mapped into it by several threads."""
    if isinstance(documents, np.ndarray) and documents.flags.c_contiguous:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a map is not writable: nothing is written
            return torch.from_numpy(documents).index_select(0, torch.from_numpy(numbers)).float()
    return torch.from_numpy(np.ascontiguousarray(documents[numbers]))


def _type(precision: Precision, device: str) -> torch.dtype:
    from nvembed.modeling.batching import resolve_precision

    resolved: Literal["float32", "bfloat16"] = resolve_precision(precision, torch.device(device))
    return torch.bfloat16 if resolved == "bfloat16" else torch.float32


def _refuse_unfinished(lengths: torch.Tensor, name: str, first: int = 0) -> None:
    """Raise for a row that holds NaN or infinity: its length is neither."""
    finite = torch.isfinite(lengths)
    if not finite.all():
        row = first + int(finite.int().argmin())
        raise UserError(f"mining: vector {row} of the {name} is not finite; check mining.teacher and its precision")


def _check(queries: np.ndarray, documents: Rows) -> None:
    for name, vectors in (("queries", queries), ("documents", documents)):
        if len(vectors.shape) != 2:
            raise UserError(f"mining: the {name} have shape {vectors.shape}; give one vector a row")
    _refuse_unfinished(torch.from_numpy(np.linalg.norm(queries, axis=1)), "queries")
    if queries.shape[1] != documents.shape[1]:
        raise UserError(
            f"mining: queries have {queries.shape[1]} dimensions, documents {documents.shape[1]}; "
            "both must come from one teacher"
        )
