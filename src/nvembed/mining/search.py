"""Exact nearest neighbours by inner product, in memory that does not grow with the corpus.

The search runs block by block as matrix products, whose last bits depend on how the blocks are cut. So it fetches a
few candidates more than asked, scores those again one pair at a time in double precision, and orders them by that
score, then by position. The answer is the same whatever the block sizes, the device and the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nvembed.core.errors import UserError
from nvembed.core.progress import Progress

QUERY_BLOCK = 512
DOCUMENT_BLOCK = 16384
_OVERFETCH = 16


def top_k(
    queries: np.ndarray,
    documents: np.ndarray,
    k: int,
    *,
    device: str = "cpu",
    query_block: int = QUERY_BLOCK,
    document_block: int = DOCUMENT_BLOCK,
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` documents with the greatest inner product for each query.

    Args:
        queries: (q, dim) float32.
        documents: (n, dim) float32; may be memory-mapped.
        k: how many; with fewer documents than `k`, all of them.
        device: where the products are computed.
        query_block, document_block: rows at once; `query_block * document_block` scores exist at a time.

    Returns:
        indices: (q, min(k, n)) int64, best first, ties by the smaller index.
        scores: the same shape, float32.

    Raises:
        UserError: vectors that hold NaN or infinity, or whose widths differ.
    """
    _check(queries, documents)
    k = min(k, len(documents))
    fetch = min(k + _OVERFETCH, len(documents))
    indices = np.empty((len(queries), k), dtype=np.int64)
    scores = np.empty((len(queries), k), dtype=np.float32)
    progress = Progress("searching", len(queries))
    for start in range(0, len(queries), query_block):
        block = queries[start : start + query_block]
        found = _search_block(torch.tensor(block, device=device), documents, fetch, document_block)
        exact = pair_scores(block, documents, found)
        order = np.lexsort((found, -exact), axis=1)[:, :k]
        stop = start + len(block)
        indices[start:stop] = np.take_along_axis(found, order, axis=1)
        scores[start:stop] = np.take_along_axis(exact, order, axis=1)
        progress.update(stop)
    return indices, scores


def pair_scores(queries: np.ndarray, documents: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Inner product of query i with each document `indices[i, j]`: the one routine that every score comes from.

    Args:
        queries: (q, dim); documents: (n, dim); indices: (q, m) rows of `documents`.

    Returns:
        (q, m) float32, each summed in double precision, so that a pair scores alike in any company.
    """
    scores = np.empty(indices.shape, dtype=np.float32)
    rows = max(1, 2**22 // max(1, indices.shape[1] * documents.shape[1]))
    for start in range(0, len(indices), rows):
        part = slice(start, start + rows)
        near = documents[indices[part]].astype(np.float64)
        scores[part] = np.matmul(near, queries[part].astype(np.float64)[:, :, None])[:, :, 0]
    return scores


def _search_block(queries: torch.Tensor, documents: np.ndarray, k: int, document_block: int) -> np.ndarray:
    """(q, k) indices of the best documents in ascending order, boundary ties by the smaller index."""
    best_scores = queries.new_empty((len(queries), 0))
    best_indices = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    for start in range(0, len(documents), document_block):
        block = torch.tensor(documents[start : start + document_block], device=queries.device)
        scores = queries @ block.T
        near = _best(scores, min(k, len(block)))
        best_scores = torch.cat([best_scores, scores.gather(1, near)], dim=1)
        best_indices = torch.cat([best_indices, near + start], dim=1)
        if best_scores.shape[1] > k:
            keep = _best(best_scores, k)
            best_scores, best_indices = best_scores.gather(1, keep), best_indices.gather(1, keep)
    return best_indices.cpu().numpy()


def _best(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Columns of the `k` greatest scores of each row, ascending; of equal scores at the edge, the first columns.

    `torch.topk` takes any of the equal ones, so the rows where the edge is shared are chosen again.
    """
    values, columns = torch.topk(scores, k, dim=1, sorted=True)
    edge = values[:, -1:]
    shared = (scores == edge).sum(dim=1) > (values == edge).sum(dim=1)
    for row in shared.nonzero()[:, 0].tolist():
        above = (scores[row] > edge[row]).nonzero()[:, 0]
        level = (scores[row] == edge[row]).nonzero()[:, 0]
        columns[row] = torch.cat([above, level[: k - len(above)]])
    return columns.sort(dim=1).values


def _check(queries: np.ndarray, documents: np.ndarray) -> None:
    for name, vectors in (("queries", queries), ("documents", documents)):
        if vectors.ndim != 2:
            raise UserError(f"mining: the {name} have shape {vectors.shape}; give one vector a row")
        for start in range(0, len(vectors), DOCUMENT_BLOCK):
            finite: Any = np.isfinite(vectors[start : start + DOCUMENT_BLOCK]).all(axis=1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                raise UserError(
                    f"mining: vector {row} of the {name} is not finite; check mining.teacher and its precision"
                )
    if queries.shape[1] != documents.shape[1]:
        raise UserError(
            f"mining: queries have {queries.shape[1]} dimensions, documents {documents.shape[1]}; "
            "both must come from one teacher"
        )
