"""What `mine.py` holds the contenders against: an exact search in double precision and a plain reading of the rule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mine_contenders import THRESHOLD
from mine_data import Data

TIE = 1e-6
DOCUMENTS_AT_ONCE = 4096


@dataclass(frozen=True)
class Exact:
    """Of each query: the nearest documents with scores, best first; the positive's score; the negatives (−1: none).

    `at_edge[i]`: a candidate of query i lies so close to the ceiling that rounding decides about it.
    """

    near: np.ndarray
    scores: np.ndarray
    positive_scores: np.ndarray
    is_positive: np.ndarray
    negatives: np.ndarray
    at_edge: np.ndarray

    @property
    def ceilings(self) -> np.ndarray:
        """What negatives' scores lie below."""
        return self.positive_scores - np.abs(self.positive_scores) * (1 - THRESHOLD)


def exact(data: Data, k: int, depth: int) -> Exact:
    """Search all documents for all queries, and choose."""
    queries = torch.tensor(data.query_vectors, dtype=torch.float64)
    scores = torch.empty((len(queries), 0), dtype=torch.float64)
    near = torch.empty((len(queries), 0), dtype=torch.int64)
    for start in range(0, len(data.documents), DOCUMENTS_AT_ONCE):
        block = torch.tensor(data.document_vectors[start : start + DOCUMENTS_AT_ONCE], dtype=torch.float64)
        values, places = torch.topk(queries @ block.T, min(depth, len(block)), dim=1)
        scores, near = torch.cat([scores, values], dim=1), torch.cat([near, places + start], dim=1)
        scores, order = torch.topk(scores, min(depth, scores.shape[1]), dim=1)
        near = near.gather(1, order)
    # A score is a float32 for all contenders; those that are equal then go by place.
    order_ = np.lexsort((near.numpy(), -scores.numpy().astype(np.float32)), axis=1)
    near_, scores_ = (np.take_along_axis(values.numpy(), order_, axis=1) for values in (near, scores))
    own = np.einsum("qd,qd->q", data.query_vectors, data.document_vectors[data.positives], dtype=np.float64)
    ceilings = (own - np.abs(own) * (1 - THRESHOLD))[:, None]
    is_positive = near_ == data.positives[:, None]
    negatives = np.full((len(near_), k), -1)
    for row, allowed in enumerate((scores_ < ceilings) & ~is_positive):
        chosen = near_[row][allowed][:k]
        negatives[row, : len(chosen)] = chosen
    at_edge = ((np.abs(scores_ - ceilings) < TIE) & ~is_positive).any(axis=1)
    return Exact(near_, scores_, own, is_positive, negatives, at_edge)


def describe_data(truth: Exact) -> dict[str, float]:
    """How hard the made-up data is, to be held against a real teacher's."""
    rivals = np.where(truth.is_positive, -np.inf, truth.scores)
    depth, k = truth.near.shape[1], truth.negatives.shape[1]
    return {
        "positive's score, median": float(np.median(truth.positive_scores)),
        "positive comes first": float(truth.is_positive[:, 0].mean()),
        "nearest rival's score, median": float(np.median(rivals.max(axis=1))),
        f"score at depth {depth}, median": float(np.median(truth.scores[:, -1])),
        "candidates at or above the ceiling": float(((rivals >= truth.ceilings[:, None]) & ~truth.is_positive).mean()),
        f"queries with fewer than {k}": float((truth.negatives[:, -1] < 0).mean()),
    }


def compare(name: str, folder: Path, data: Data, truth: Exact) -> dict[str, int]:
    """Queries whose ids differ from the exact ones, and how many of them by equal scores only."""
    chosen = np.load(folder / f"{name}.npy")[: len(truth.near)]
    expected = truth.near if name.startswith("search:") else truth.negatives
    rows = np.flatnonzero((chosen != expected).any(axis=1))
    one, other = (_scores(data, rows, ids[rows]) for ids in (chosen, expected))
    with np.errstate(invalid="ignore"):
        equal = ((one == other) | (np.abs(one - other) < TIE)).all(axis=1)
    if not name.startswith("search:"):
        equal |= truth.at_edge[rows]
    return {"of": len(truth.near), "differ": len(rows), "ties": int(equal.sum())}


def _scores(data: Data, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(r, m) inner products in double precision; −inf where there is no document."""
    scores = np.full(ids.shape, -np.inf)
    for place, (row, found) in enumerate(zip(rows, ids, strict=True)):
        there = found >= 0
        documents = data.document_vectors[found[there]].astype(np.float64)
        scores[place, there] = documents @ data.query_vectors[row].astype(np.float64)
    return scores
