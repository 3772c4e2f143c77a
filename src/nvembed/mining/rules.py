"""Which candidates may be hard negatives: first by text, then by score.

By text: never the query, a positive of the query, or a text the row has already, all compared after normalisation. By
score, NV-Retriever's rules (arXiv 2407.15831, section 3): a candidate stays only if its score is strictly below a
ceiling. With several positives of one query the smallest of their scores makes the ceiling: it is the most careful.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal

import numpy as np

Method = Literal["naive", "shifted", "absolute", "margin", "percentage"]
DROPS = ("positive", "query", "repeated", "shift", "score")


def normalise(text: str) -> str:
    """The form in which texts are compared: Unicode's compatibility form, case folded, runs of space made one."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def score_ceiling(method: Method, threshold: float, positive_scores: np.ndarray) -> np.ndarray:
    """What a negative's score must stay strictly below, for each query.

    - naive, shifted: no ceiling.
    - absolute: `threshold`.
    - margin: the positive's score − `threshold`.
    - percentage: `threshold` of the positive's score. As it stands in the paper, `pos * threshold`, a negative score
      would flip the rule: the ceiling would lie above the positive. So it is `pos - |pos| * (1 - threshold)`, the same
      for a positive score and still below it for a negative one.

    Args:
        method: the rule's name. threshold: see above; unused where there is no ceiling.
        positive_scores: (q,) the smallest score among each query's positives.

    Returns:
        (q,) float64.
    """
    positive = positive_scores.astype(np.float64)
    if method == "absolute":
        return np.full_like(positive, threshold)
    if method == "margin":
        return positive - threshold
    if method == "percentage":
        return positive - np.abs(positive) * (1.0 - threshold)
    return np.full_like(positive, np.inf)


@dataclass(frozen=True)
class Choice:
    """What was chosen for q queries, and why the other candidates were not.

    `columns[i]` holds the chosen positions in query i's candidate list, best first. `dropped` counts candidates by the
    first rule that dropped them (`DROPS`); `left` counts those that passed every rule.
    """

    columns: list[np.ndarray]
    dropped: dict[str, int]
    left: int


def choose(
    scores: np.ndarray,
    keys: np.ndarray,
    ceiling: np.ndarray,
    *,
    wanted: np.ndarray,
    positives: list[set[int]],
    queries: np.ndarray,
    present: list[set[int]],
    shift: int = 0,
) -> Choice:
    """The best candidates that every rule lets through.

    Args:
        scores: (q, m) candidates' scores, best first.
        keys: (q, m) number of each candidate's normalised text; equal texts have equal numbers.
        ceiling: (q,) from `score_ceiling`.
        wanted: (q,) how many negatives each query still needs.
        positives: numbers of each query's positive texts.
        queries: (q,) number of each query's own text.
        present: numbers of the texts that the row has as negatives already.
        shift: how many of the nearest that are neither query, positive nor repeated to leave out.
    """
    masks = {
        "positive": _is_in(keys, positives),
        "query": keys == queries[:, None],
        "repeated": _is_in(keys, present) | _seen_before(keys),
    }
    open_ = np.ones(scores.shape, dtype=bool)
    dropped = {}
    for name, mask in masks.items():
        dropped[name] = int((mask & open_).sum())
        open_ &= ~mask
    nearest = open_ & (np.cumsum(open_, axis=1) <= shift)
    dropped["shift"] = int(nearest.sum())
    open_ &= ~nearest
    too_close = open_ & ~(scores < ceiling[:, None])
    dropped["score"] = int(too_close.sum())
    open_ &= ~too_close
    columns = [np.flatnonzero(row)[: max(0, int(count))] for row, count in zip(open_, wanted, strict=True)]
    return Choice(columns, dropped, int(open_.sum()))


def _is_in(keys: np.ndarray, banned: list[set[int]]) -> np.ndarray:
    """(q, m) bool: is `keys[i, j]` in `banned[i]`? One number a pair, so that one look-up serves."""
    rows = np.repeat(np.arange(len(banned)), [len(row) for row in banned])
    values = np.fromiter((key for row in banned for key in row), dtype=np.int64, count=len(rows))
    width = 1 + max(int(keys.max(initial=0)), int(values.max(initial=0)))
    return np.isin(np.arange(len(keys))[:, None] * width + keys, rows * width + values)


def _seen_before(keys: np.ndarray) -> np.ndarray:
    """(q, m) bool: does the same text stand further to the left in the row?"""
    width = 1 + int(keys.max(initial=0))
    packed = np.arange(len(keys))[:, None] * width + keys
    first = np.zeros(packed.size, dtype=bool)
    first[np.unique(packed, return_index=True)[1]] = True
    return ~first.reshape(keys.shape)
