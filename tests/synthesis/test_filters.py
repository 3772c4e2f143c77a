"""Filters against planted bad examples: what is refused, what is kept, at which rates."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from synthetic_documents import WORDS, sentences

from nvembed.data.near_copies import jaccard, ngrams
from nvembed.recipe.synthesis import Quality
from nvembed.synthesis import filters
from nvembed.synthesis.candidate import RETRIEVAL, Candidate
from nvembed.synthesis.documents import Passage


def candidate(query: str, positive: str = "the passage", **more: object) -> Candidate:
    made = {
        "negatives": (), "split": "train", "task": RETRIEVAL, "task_type": "retrieval", "instruction": "i",
        "kind": "question", "length": "short", "language": "en", "model": "m", "prompt": "1", "seed": 1,
        "request": "r", "passage": "p",
    }  # fmt: skip
    return Candidate(query=query, positive=positive, **{**made, **more})  # type: ignore[arg-type]


def of_words(texts: Sequence[str], *, queries: bool) -> np.ndarray:
    """Unit vectors of word counts: nearness is shared words."""
    place = {word: number for number, word in enumerate(WORDS)}
    vectors = np.zeros((len(texts), len(WORDS)), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().replace(".", "").split():
            if word in place:
                vectors[row, place[word]] += 1
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def planted(number: int = 200) -> tuple[list[Passage], list[Candidate], list[Candidate]]:
    """Passages, sound queries (words of their passage), and as many on something else (of another passage)."""
    draw = random.Random(5)
    passages = [Passage(f"d{n}", f"doc{n}", 0, sentences(draw, 5)) for n in range(number)]

    def query(passage: Passage) -> str:
        return " ".join(draw.sample(passage.text.lower().replace(".", "").split(), 9))

    good = [candidate(query(one), one.text, passage=one.id) for one in passages]
    bad = [candidate(query(passages[(n + 7) % number]), one.text, passage=one.id) for n, one in enumerate(passages)]
    return passages, good, bad


def test_the_round_trip_refuses_queries_on_something_else(record_property) -> None:  # type: ignore[no-untyped-def]
    passages, good, bad = planted()

    filters.round_trip([*good, *bad], passages, 3, of_words)

    kept = sum(not one.refused for one in good) / len(good)
    caught = sum(one.refused == filters.ROUND_TRIP for one in bad) / len(bad)
    print(f"round trip: {kept:.1%} of sound queries kept, {caught:.1%} of planted bad ones refused")
    assert kept >= 0.95 and caught >= 0.95


def test_ranks_are_those_of_a_full_sort() -> None:
    draw = np.random.default_rng(3)
    queries = draw.integers(-2, 3, (700, 6)).astype(np.float32)  # small integers, so that there are ties
    documents = draw.integers(-2, 3, (90, 6)).astype(np.float32)
    own = draw.integers(0, 90, 700)

    ranks, scores = filters.ranks_of(queries, documents, own)

    for query, mine, rank, score in zip(queries, own, ranks, scores, strict=True):
        order = sorted(range(90), key=lambda number: (-float(query @ documents[number]), number))
        assert order.index(mine) + 1 == rank
        assert score == query @ documents[mine]


def test_near_duplicates_are_refused_and_different_queries_stay() -> None:
    draw = random.Random(9)
    good = [candidate(" ".join(draw.choices(WORDS, k=14))) for _ in range(300)]
    exact = [candidate(f"{one.query.upper()}?!") for one in good[:100]]
    near = [candidate(f"{one.query} really") for one in good[100:200]]
    far = [candidate(" ".join([*one.query.split()[:7], *draw.choices(WORDS, k=7)])) for one in good[200:]]
    likeness = [jaccard(ngrams(a.query), ngrams(b.query)) for a, b in zip(good[100:200], near, strict=True)]
    assert min(likeness) >= 0.8
    everything = [*good, *exact, *near, *far]

    filters.refuse_duplicates(everything, 0.8)

    assert [one.refused for one in good] == [""] * 300
    assert [one.refused for one in exact] == [filters.EXACT] * 100
    caught = sum(one.refused == filters.NEAR for one in near)
    wrong = sum(bool(one.refused) for one in far)
    print(f"near duplicates: {caught} of 100 planted ones refused, {wrong} of 100 half-alike ones refused")
    assert caught >= 99 and wrong == 0


def test_without_a_threshold_exact_duplicates_alone_go() -> None:
    both = [candidate("one two three four five six seven"), candidate("one two three four five six seven eight")]

    filters.refuse_duplicates(both, None)

    assert [one.refused for one in both] == ["", ""]


def test_a_training_query_gives_way_to_a_held_out_one() -> None:
    train, test = candidate("the same query"), candidate("The same query?", split="test")

    filters.refuse_duplicates([train, test], 0.8)

    assert (train.refused, test.refused) == (filters.EXACT, "")


def test_shapes_are_refused_with_their_reason() -> None:
    cases = {
        "?!": filters.EMPTY,
        "one": filters.SHORT,
        "The passage": filters.SAME,
        "word " * 81: filters.LONG,
        "a sound query": "",
    }
    made = [candidate(query) for query in cases]

    filters.refuse_shapes(made, Quality())

    assert [one.refused for one in made] == list(cases.values())


def test_languages_without_spaces_are_counted_by_characters() -> None:
    made = [candidate("安装步骤说明", language="zh"), candidate("安", language="zh")]

    filters.refuse_shapes(made, Quality())

    assert [one.refused for one in made] == ["", filters.EMPTY]


ENGLISH = [
    "How do I install the package on a machine without a network?",
    "What happens to a checkpoint when the process is killed?",
    "settings for longer passages and larger batches",
    "The cache is emptied whenever the code has changed.",
    "Which of the two stages uses negatives from the batch?",
]
GERMAN = [
    "Wie installiere ich das Paket auf einem Rechner ohne Netz?",
    "Was geschieht mit einem Zwischenstand, wenn der Prozess endet?",
    "Einstellungen für längere Abschnitte und größere Stapel",
    "Der Zwischenspeicher wird geleert, sobald sich der Code ändert.",
    "Welche der beiden Stufen nutzt Gegenbeispiele aus dem Stapel?",
]
FRENCH = ["Comment puis-je installer le paquet sur une machine sans réseau ?"]


def test_another_language_than_asked_for_is_refused() -> None:
    made = [candidate(query) for query in (*ENGLISH, *GERMAN, *FRENCH)]
    german = [candidate(query, language="de") for query in GERMAN]
    short = candidate("numpy dtype")

    filters.refuse_languages([*made, *german, short])

    assert [one.refused for one in made] == [""] * 5 + [filters.LANGUAGE] * 6
    assert [one.refused for one in german] == [""] * 5
    assert short.refused == ""


def test_leakage_is_the_share_of_different_words_that_stand_in_the_passage() -> None:
    made = candidate("Where is the the blue house", "The house is BLUE, they say.")

    filters.measure_leakage([made], None)
    assert made.leakage == pytest.approx(4 / 5)
    assert made.refused == ""

    filters.measure_leakage([made], 0.7)
    assert made.refused == filters.LEAKAGE


def test_a_hard_negative_that_repeats_its_example_is_dropped() -> None:
    draw = random.Random(2)
    positive, other = sentences(draw, 4), sentences(draw, 4)
    made = candidate("a query", positive, negatives=(f"{positive} More.", "A query!", other, other.upper(), ""))

    filters.clean_negatives([made], Quality())

    assert made.negatives == (other,)
    assert made.negatives_dropped == 4


def test_an_example_of_a_task_needs_a_negative() -> None:
    made = candidate("a query", "a positive", negatives=("A positive.",))

    filters.clean_negatives([made], Quality(), needed=True)

    assert made.refused == filters.NO_NEGATIVE
