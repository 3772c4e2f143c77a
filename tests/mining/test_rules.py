"""Each rule against a plain reading of its sentence in the paper, one candidate at a time."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nvembed.mining import choose, score_ceiling
from nvembed.mining.rules import normalise

METHODS = ["naive", "shifted", "absolute", "margin", "percentage"]


def plainly(
    method: str, threshold: float, shift: int, wanted: int, candidates: list[tuple[str, float]],
    query: str, positives: dict[str, float], present: set[str],
) -> list[int]:  # fmt: skip
    """Walk down the candidates and take the first `wanted` that may be taken."""
    positive = min(positives.values())
    seen: set[str] = set()
    taken, passed = [], 0
    for place, (text, score) in enumerate(candidates):
        if text == query or text in positives or text in present or text in seen:
            continue
        seen.add(text)
        passed += 1
        if method == "shifted" and passed <= shift:
            continue
        if method == "absolute" and not score < threshold:
            continue
        if method == "margin" and not score < positive - threshold:
            continue
        if method == "percentage" and positive >= 0 and not score < positive * threshold:
            continue
        if method == "percentage" and positive < 0 and not score < positive * (2 - threshold):
            continue
        taken.append(place)
    return taken[: max(wanted, 0)]


def chosen(
    method, threshold, shift, wanted, candidates, query, positives, present
):  # fmt: skip
    number: dict[str, int] = {}

    def key(text: str) -> int:
        return number.setdefault(text, len(number))

    ceiling = score_ceiling(method, threshold, np.array([min(positives.values())], dtype=np.float32))
    return choose(
        np.array([[score for _, score in candidates]], dtype=np.float32),
        np.array([[key(text) for text, _ in candidates]]),
        ceiling,
        wanted=np.array([wanted]),
        positives=[{key(text) for text in positives}],
        queries=np.array([key(query)]),
        present=[{key(text) for text in present}],
        shift=shift if method == "shifted" else 0,
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(40))
def test_a_rule_takes_what_its_plain_reading_takes(method: str, seed: int) -> None:
    rng = random.Random(seed)
    texts = [f"t{n}" for n in range(25)]
    # Scores in steps of 1/16 so that ties and scores exactly at the edge are common, and exact in float32.
    candidates = sorted(((rng.choice(texts), rng.randint(-16, 16) / 16) for _ in range(30)), key=lambda pair: -pair[1])
    positives = {rng.choice(texts): rng.randint(-16, 16) / 16 for _ in range(rng.randint(1, 4))}
    arguments = (
        method, rng.choice([0.5, 0.75, 1.0]), rng.randint(0, 5), rng.randint(0, 9), candidates,
        rng.choice(texts), positives, {rng.choice(texts) for _ in range(rng.randint(0, 2))},
    )  # fmt: skip
    assert chosen(*arguments).columns[0].tolist() == plainly(*arguments)


@pytest.mark.parametrize(
    ("method", "threshold", "positive", "ceiling"),
    [
        ("percentage", 0.95, 0.8, 0.76),
        ("percentage", 0.95, -0.4, -0.42),  # -0.4 * 0.95 = -0.38 would let through what is nearer than the positive
        ("percentage", 0.95, 0.0, 0.0),
        ("margin", 0.05, 0.8, 0.75),
        ("margin", 0.05, -0.4, -0.45),
        ("absolute", 0.7, 0.8, 0.7),
        ("absolute", 0.7, -0.4, 0.7),
        ("naive", 0.95, 0.8, np.inf),
        ("shifted", 0.95, 0.8, np.inf),
    ],
)
def test_the_ceiling_of_a_rule(method: str, threshold: float, positive: float, ceiling: float) -> None:
    assert score_ceiling(method, threshold, np.array([positive])) == pytest.approx([ceiling])


@pytest.mark.parametrize("positive", [-0.9, -0.3, 0.0, 0.3, 0.9])
def test_a_percentage_never_admits_what_scores_as_high_as_the_positive(positive: float) -> None:
    assert score_ceiling("percentage", 0.95, np.array([positive]))[0] <= positive


def test_a_score_at_the_ceiling_is_dropped() -> None:
    found = chosen("margin", 0.25, 0, 5, [("at", 0.5), ("below", 0.4375)], "q", {"p": 0.75}, set())
    assert found.columns[0].tolist() == [1]
    assert found.dropped["score"] == 1


def test_with_several_positives_the_smallest_score_counts_and_none_is_returned() -> None:
    candidates = [("p1", 0.75), ("near", 0.5), ("p2", 0.375), ("far", 0.125)]
    found = chosen("margin", 0.0, 0, 5, candidates, "q", {"p1": 0.75, "p2": 0.375}, set())
    assert found.columns[0].tolist() == [3]
    assert found.dropped == {"positive": 2, "query": 0, "repeated": 0, "shift": 0, "score": 1, "near": 0}


def test_a_candidate_is_counted_under_the_first_rule_that_drops_it() -> None:
    candidates = [("p", 1.0), ("q", 0.9), ("own", 0.8), ("a", 0.7), ("a", 0.7), ("b", 0.2)]
    found = chosen("shifted", 0.0, 1, 5, candidates, "q", {"p": 1.0}, {"own"})
    assert found.dropped == {"positive": 1, "query": 1, "repeated": 2, "shift": 1, "score": 0, "near": 0}
    assert found.left == 1
    assert sum(found.dropped.values()) + found.left == len(candidates)


def test_a_row_that_has_enough_negatives_gets_none() -> None:
    assert chosen("naive", 0.0, 0, -2, [("a", 0.5)], "q", {"p": 1.0}, set()).columns[0].tolist() == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Open a  file.", " open a\nfile. "),
        ("STRASSE", "straße"),
        ("ﬁle", "file"),
        ("caf\u0065\u0301", "café"),
    ],
)
def test_texts_that_read_alike_are_equal(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


def test_texts_that_differ_in_a_word_are_not_equal() -> None:
    assert normalise("open a file") != normalise("open the file")
