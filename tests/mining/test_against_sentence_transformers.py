"""The rules choose what sentence-transformers' `mine_hard_negatives` chooses with corresponding arguments.

| our rule | its argument (6.2) | a candidate is removed there if |
|---|---|---|
| naive | none | |
| shifted, `shift` = s | `range_min` = s | it is among the first s of what the other rules left |
| absolute, `threshold` = t | `max_score` = t | score > t |
| margin, `threshold` = t | `absolute_margin` = t | score + t > pos |
| percentage, `threshold` = t | `relative_margin` = 1 − t | score > pos − abs(pos)·(1 − t) |

`pos` is on both sides the smallest score among the query's positives. It fetches `range_max` + (most positives of any
query) candidates, so our depth is that sum.

By design the two differ in three ways, and the data is built so that none of them matters:

- a score exactly at the ceiling is kept there and dropped here (the paper says "below"): shown by a test of its own;
- we drop the query's own text and later copies of a text after normalisation, it tells texts apart byte by byte: all
  texts here differ after normalisation, and no passage is a query;
- of equal scores it takes what `torch.topk` takes, we take the lower place. Queries where two scores that matter, or a
  score and the ceiling, lie within `TIE` of each other are left out and counted: rounding of float32 decides there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from nvembed.mining import choose, pair_scores, score_ceiling, top_k
from nvembed.mining.rules import normalise

WANTED = 4
TIE = 1e-6  # a float32 product of unit vectors is right within about a tenth of this
RULES: dict[str, tuple[float, int, dict[str, Any]]] = {
    "naive": (0.95, 0, {}),
    "shifted": (0.95, 5, {"range_min": 5}),
    "absolute": (0.3, 0, {"max_score": 0.3}),
    "margin": (0.05, 0, {"absolute_margin": 0.05}),
    "percentage": (0.95, 0, {"relative_margin": 0.05}),
}


@dataclass(frozen=True)
class Case:
    """Different queries and passages with unit vectors; each query's positives by place in `passages`."""

    queries: list[str]
    passages: list[str]
    query_vectors: np.ndarray
    passage_vectors: np.ndarray
    positives: list[list[int]]

    @property
    def most_positives(self) -> int:
        return max(map(len, self.positives))

    @property
    def exact(self) -> np.ndarray:
        return self.query_vectors.astype(np.float64) @ self.passage_vectors.astype(np.float64).T

    def positive_scores(self) -> list[np.ndarray]:
        vectors = zip(self.query_vectors, self.positives, strict=True)
        return [pair_scores(q[None], self.passage_vectors, np.array([own]))[0] for q, own in vectors]


class PreparedModel:
    """What `mine_hard_negatives` asks of a model, with vectors that were made before."""

    device = "cpu"

    def __init__(self, case: Case) -> None:
        self._queries = dict(zip(case.queries, case.query_vectors, strict=True))
        self._passages = dict(zip(case.passages, case.passage_vectors, strict=True))

    def encode_query(self, texts: list[str], **options: object) -> np.ndarray:
        return np.stack([self._queries[text] for text in texts])

    def encode_document(self, texts: list[str], **options: object) -> np.ndarray:
        return np.stack([self._passages[text] for text in texts])

    def similarity(self, one: Any, other: Any) -> Any:
        from sentence_transformers.util import dot_score

        return dot_score(one, other)

    def similarity_pairwise(self, one: Any, other: Any) -> Any:
        from sentence_transformers.util import pairwise_dot_score

        return pairwise_dot_score(one, other)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def random_case() -> Case:
    """Positives of every rank, so that many score below zero; up to three of one query."""
    rng = np.random.default_rng(7)
    queries, passages = unit(rng.standard_normal((200, 48))), unit(rng.standard_normal((350, 48)))
    ranked = np.argsort(-(queries @ passages.T), axis=1)
    # Evenly drawn logarithms: the nearest passages are positives as often as those of the middle.
    ranks = [np.unique(np.exp(rng.uniform(0, np.log(300), rng.integers(1, 4))).astype(int) - 1) for _ in queries]
    positives = [row[own].tolist() for row, own in zip(ranked, ranks, strict=True)]
    names = [f"query {n}" for n in range(200)], [f"passage {n}" for n in range(350)]
    return Case(*names, queries, passages, positives)


@pytest.fixture(scope="module")
def real_case() -> Case:
    """Python's documentation under the laptop recipe's teacher. Each fifth query has a second positive, and each
    seventh one that scores below zero: the nearest such passage, as a wrong label would have it."""
    from nvembed import NVEmbedModel
    from nvembed.data.pydocs import read_python_docs
    from nvembed.recipe import load_recipe

    teacher = load_recipe("laptop").mining.teacher
    queries: dict[str, str] = {}
    passages: dict[str, str] = {}
    pairs = []
    for pair in read_python_docs().pairs[::10]:
        query, passage = normalise(pair.query), normalise(pair.positive)
        if not {query, passage} & (queries.keys() | passages.keys()) and query != passage:
            queries[query], passages[passage] = pair.query, pair.positive
            pairs.append((pair.query, pair.positive))
    pairs = pairs[:160]
    model = NVEmbedModel.from_card(teacher.backbone, pooling=teacher.pooling, max_length=teacher.max_length)
    vectors = [model.encode([pair[side] for pair in pairs], precision="auto") for side in (0, 1)]
    scores = vectors[0] @ vectors[1].T
    positives = [[place] for place in range(len(pairs))]
    for place, own in enumerate(positives):
        if place % 5 == 0:
            own.append((place + 1) % len(pairs))
        if place % 7 == 0 and (scores[place] < 0).any():
            own.append(int(np.where(scores[place] < 0, scores[place], -np.inf).argmax()))
    positives = [list(dict.fromkeys(own)) for own in positives]
    return Case([q for q, _ in pairs], [p for _, p in pairs], *vectors, positives)


@pytest.fixture(params=["random vectors", "real vectors"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue("random_case" if request.param.startswith("random") else "real_case")


def ours(case: Case, method: str, depth: int) -> tuple[list[list[str]], list[list[float]]]:
    """Passages chosen for each query, best first, and their scores."""
    threshold, shift, _ = RULES[method]
    near, scores = top_k(case.query_vectors, case.passage_vectors, depth)
    choice = choose(
        scores,
        near,  # all texts differ, so a passage's place is its text's number
        score_ceiling(method, threshold, np.array([own.min() for own in case.positive_scores()])),
        wanted=np.full(len(near), WANTED),
        positives=[set(own) for own in case.positives],
        queries=np.arange(len(near)) + len(case.passages),
        present=[set() for _ in near],
        shift=shift,
    )
    texts = [[case.passages[d] for d in row[found]] for row, found in zip(near, choice.columns, strict=True)]
    return texts, [row[found].tolist() for row, found in zip(scores, choice.columns, strict=True)]


def theirs(case: Case, arguments: dict[str, Any], depth: int) -> tuple[list[list[str]], list[list[float]]]:
    """The same by sentence-transformers. It leaves a query without negatives out, and repeats one for each positive."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    rows = [(q, case.passages[d]) for q, own in zip(case.queries, case.positives, strict=True) for d in own]
    found = mine_hard_negatives(
        Dataset.from_dict({"query": [q for q, _ in rows], "positive": [p for _, p in rows]}),
        PreparedModel(case),  # type: ignore[arg-type]
        corpus=case.passages,
        range_max=depth - case.most_positives,
        num_negatives=WANTED,
        sampling_strategy="top",
        output_format="labeled-list",
        output_scores=True,
        verbose=False,
        **arguments,
    )
    chosen: dict[str, tuple[list[str], list[float]]] = {}
    for row in found:
        mined = row["positive"][1:], row["scores"][1:]
        assert chosen.setdefault(row["query"], mined) == mined
    pairs = [chosen.get(query, ([], [])) for query in case.queries]
    return [texts for texts, _ in pairs], [scores for _, scores in pairs]


def ties(case: Case, method: str, depth: int) -> np.ndarray:
    """(q,) bool: may rounding decide what is chosen? By scores in double precision, and by nothing of either side."""
    threshold, shift, _ = RULES[method]
    return np.array(list(_ties(case, method, threshold, shift, depth)))


def _ties(case: Case, method: str, threshold: float, shift: int, depth: int) -> Iterator[bool]:
    for row, own in zip(case.exact, case.positives, strict=True):
        pos = row[own].min()
        ceiling = {"absolute": threshold, "margin": pos - threshold, "percentage": pos - abs(pos) * (1 - threshold)}
        bound = ceiling.get(method, np.inf)
        edge = np.sort(row)[::-1][min(depth, len(row)) - 1 : depth + 1]  # the last one looked at, the first one not
        others = np.sort(np.delete(row, own))[::-1]
        eligible = others[(others < bound) & (others >= edge[0])][: shift + WANTED + 1]
        close = [np.abs(np.diff(edge)), np.abs(np.diff(eligible)), np.abs(others - bound)]
        yield bool((np.concatenate(close) < TIE).any())


@pytest.mark.parametrize("depth", [40, 300])
@pytest.mark.parametrize("method", RULES)
def test_a_rule_chooses_what_sentence_transformers_chooses(case: Case, method: str, depth: int) -> None:
    """A depth of 300 is nearly all of the random passages, and more than there are real ones."""
    texts, scores = ours(case, method, depth)
    their_texts, their_scores = theirs(case, RULES[method][2], depth)
    tied = ties(case, method, depth)
    assert tied.sum() <= 0.03 * len(tied), f"{tied.sum()} of {len(tied)} queries have ties"
    for query in np.flatnonzero(~tied):
        assert texts[query] == their_texts[query], case.queries[query]
        assert scores[query] == pytest.approx(their_scores[query], abs=TIE)


@pytest.mark.parametrize("method", RULES)
def test_the_cases_leave_each_rule_something_to_do(case: Case, method: str) -> None:
    """Many queries get negatives, other ones than without a rule, and so do those with a positive below zero."""
    texts, _ = ours(case, method, 300)
    plain, _ = ours(case, "naive", 300)
    changed = sum(one != other for one, other in zip(texts, plain, strict=True))
    assert changed == 0 if method == "naive" else changed > 0.2 * len(texts)
    assert sum(len(row) == WANTED for row in texts) > 0.5 * len(texts)
    below = [bool(row) for row, own in zip(texts, case.positive_scores(), strict=True) if own.min() < 0]
    assert sum(below) >= 10
    assert case.most_positives == 3


def test_a_score_at_the_ceiling_is_kept_there_and_dropped_here() -> None:
    """All scores are exact in float32: 0.5 at the ceiling, 0.25 below it."""
    passages = np.array([[0.5, 0.75, 0, 0], [0.5, 0, 0.75, 0], [0.25, 0, 0, 0.75]], dtype=np.float32)
    case = Case(["q"], ["positive", "at", "below"], np.eye(4, dtype=np.float32)[:1], passages, [[0]])
    near, scores = top_k(case.query_vectors, passages, 5)
    choice = choose(
        scores, near, score_ceiling("margin", 0.0, np.array([0.5])), wanted=np.array([WANTED]), positives=[{0}],
        queries=np.array([3]), present=[set()],
    )  # fmt: skip
    assert near[0][choice.columns[0]].tolist() == [2]
    assert theirs(case, {"absolute_margin": 0.0}, depth=5)[0] == [["at", "below"]]
    assert theirs(case, {"relative_margin": 0.0}, depth=5)[0] == [["at", "below"]]
