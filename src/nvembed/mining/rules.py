"""Which candidates may be hard negatives: first by text, then by score.

By text: never the query, a positive of the query, or a text the row has already, all compared after normalisation;
and, if it is asked, none that nearly copies the query or one of its positives. By
score, NV-Retriever's rules (arXiv 2407.15831, section 3): a candidate stays only if its score is strictly below a
ceiling. With several positives of one query the smallest of their scores makes the ceiling: it is the most careful.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Method = Literal["naive", "shifted", "absolute", "margin", "percentage"]
DROPS = ("positive", "query", "repeated", "shift", "score", "near")
Near = Callable[[np.ndarray, np.ndarray], np.ndarray]


def normalise(text: str) -> str:
    """The form in which texts are compared: Unicode's compatibility form, case folded, runs of space made one."""
    # ASCII is its own compatibility form, and its lower case is its folded one
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split())


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

    Attributes:
        columns: of each query, the chosen positions in its list of candidates, in the order they were taken.
        by_query: (q,) counts: of candidates dropped, by the first rule that dropped them (`DROPS`); of `candidates`;
            and of what is `left`, having passed every rule.
        suspects: (q,) position of the nearest candidate that its score alone ruled out; -1 if there is none.
    """

    columns: list[np.ndarray]
    by_query: dict[str, np.ndarray]
    suspects: np.ndarray

    @property
    def dropped(self) -> dict[str, int]:
        """Candidates of all queries dropped by each rule."""
        return {name: int(self.by_query[name].sum()) for name in DROPS}

    @property
    def left(self) -> int:
        """Candidates of all queries that passed every rule."""
        return int(self.by_query["left"].sum())


def choose(
    scores: np.ndarray,
    keys: np.ndarray,
    ceiling: np.ndarray,
    *,
    wanted: np.ndarray,
    positives: Sequence[Collection[int]],
    queries: np.ndarray,
    present: Sequence[Collection[int]],
    shift: int = 0,
    order: Callable[[int, np.ndarray], np.ndarray] | None = None,
    near: Near | None = None,
) -> Choice:
    """The best candidates that every rule lets through.

    Args:
        scores: (q, m) candidates' scores, best first.
        keys: (q, m) number of each candidate's normalised text, negative where there is no candidate; equal texts have
            equal numbers.
        ceiling: (q,) from `score_ceiling`.
        wanted: (q,) how many negatives each query still needs.
        positives: numbers of each query's positive texts.
        queries: (q,) number of each query's own text.
        present: numbers of the texts that the row has as negatives already.
        shift: how many of the nearest that are neither query, positive nor repeated to leave out.
        order: (query, columns that passed) → columns in the order to take them; None: best first.
        near: (queries, columns) of some candidates → bool, whether each nearly copies its query or a positive. Asked
            only of candidates whose turn it is.
    """
    open_ = keys >= 0
    counts = {"candidates": open_.sum(axis=1)}
    masks = {
        "positive": _is_in(keys, positives),
        "query": keys == queries[:, None],
        "repeated": _is_in(keys, present) | _seen_before(keys),
    }
    for name, mask in masks.items():
        counts[name] = (mask & open_).sum(axis=1)
        open_ &= ~mask
    nearest = open_ & (np.cumsum(open_, axis=1) <= shift)
    counts["shift"] = nearest.sum(axis=1)
    open_ &= ~nearest
    too_close = open_ & ~(scores < ceiling[:, None])
    counts["score"] = too_close.sum(axis=1)
    open_ &= ~too_close
    suspects = np.where(too_close.any(axis=1), too_close.argmax(axis=1), -1) if keys.shape[1] else counts["score"] - 1
    passed = [np.flatnonzero(row) for row in open_]
    if order is not None:
        passed = [order(query, columns) for query, columns in enumerate(passed)]
    columns, counts["near"] = _take(passed, np.maximum(wanted, 0), near)
    counts["left"] = open_.sum(axis=1) - counts["near"]
    return Choice(columns, counts, suspects)


def _take(passed: list[np.ndarray], wanted: np.ndarray, near: Near | None) -> tuple[list[np.ndarray], np.ndarray]:
    """The first of each list that are no near copies, and how many copies were met on the way, (q,)."""
    copies = np.zeros(len(passed), dtype=np.int64)
    if near is None:
        return [columns[:count] for columns, count in zip(passed, wanted, strict=True)], copies
    chosen: list[list[int]] = [[] for _ in passed]
    at = np.zeros(len(passed), dtype=np.int64)
    while True:
        turn = [columns[a : a + w - len(c)] for columns, a, w, c in zip(passed, at, wanted, chosen, strict=True)]
        sizes = np.array([len(columns) for columns in turn], dtype=np.int64)
        if not sizes.sum():
            return [np.array(columns, dtype=np.int64) for columns in chosen], copies
        queries, columns = np.repeat(np.arange(len(turn)), sizes), np.concatenate(turn)
        is_copy = near(queries, columns)
        np.add.at(copies, queries[is_copy], 1)
        at += sizes
        for query, column in zip(queries[~is_copy], columns[~is_copy], strict=True):
            chosen[query].append(int(column))


def softmax_order(scores: np.ndarray, noise: np.ndarray, temperature: float) -> np.ndarray:
    """An order drawn without replacement, each next one by a softmax of `scores / temperature` over those left.

    Adding Gumbel noise and sorting draws exactly so (Gumbel-top-k; Kool and others 2019, arXiv 1903.06059).

    Args:
        scores: (n,). noise: (n,) uniform in (0, 1). temperature: the smaller, the more the order follows the scores.

    Returns:
        (n,) places in `scores`.
    """
    return np.argsort(-(scores / temperature - np.log(-np.log(noise))), kind="stable")


def hash_noise(seed: int, query: int, documents: np.ndarray) -> np.ndarray:
    """(n,) uniform in (0, 1), a function of the three alone: a draw does not depend on what was drawn before.

    Args:
        seed, query: integers below 2⁶⁴. documents: (n,) uint64 digests.
    """
    with np.errstate(over="ignore"):
        state = documents.astype(np.uint64) ^ _mix(np.array([query], np.uint64) + _mix(np.array([seed], np.uint64)))
        return ((_mix(state) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014) after its increment."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def _is_in(keys: np.ndarray, banned: Sequence[Collection[int]]) -> np.ndarray:
    """(q, m) bool: is `keys[i, j]` in `banned[i]`?"""
    sizes = np.fromiter(map(len, banned), dtype=np.int64, count=len(banned))
    found = np.zeros(keys.shape, dtype=bool)
    starts = np.cumsum(sizes) - sizes
    values = np.fromiter(itertools.chain.from_iterable(banned), dtype=np.int64, count=int(sizes.sum()))
    for place in range(int(sizes.max(initial=0))):  # most queries have one positive: as many rounds as the longest has
        rows = np.flatnonzero(sizes > place)
        found[rows] |= keys[rows] == values[starts[rows] + place][:, None]
    return found


def _seen_before(keys: np.ndarray) -> np.ndarray:
    """(q, m) bool: does the same text stand further to the left in the row?"""
    ordered = np.sort(keys, axis=1)
    twice = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))  # few rows
    found = np.zeros(keys.shape, dtype=bool)
    for row in twice:
        found[row] = True
        found[row, np.unique(keys[row], return_index=True)[1]] = False
    return found
