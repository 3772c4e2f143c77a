"""Evaluation texts are found in training texts in whatever form they stand there, and others are not."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from nvembed.data.overlap import SKETCH, OverlapIndex, _known, _sketches, _word_pairs, plain_words

WORDS = [
    f"{a}{b}" for a in ("bar", "kel", "mon", "tir", "sul", "vap", "dro", "fen") for b in ("a", "eth", "in", "os", "ul")
]


def text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=words))


@pytest.fixture(scope="module")
def references() -> list[str]:
    draw = random.Random(0)
    return [text(draw, 12 + number % 40) for number in range(60)]


@pytest.fixture(scope="module")
def index(references: list[str]) -> OverlapIndex:
    return OverlapIndex(references)


def reworded(given: str, share: float, seed: int) -> str:
    """Exactly so many of the words replaced by words that stand in no reference."""
    words, draw = given.split(), random.Random(seed)
    for place in draw.sample(range(len(words)), round(share * len(words))):
        words[place] = f"other{place}"
    return " ".join(words)


def test_the_same_words_are_exact_whatever_their_case_and_punctuation(index, references):
    for number, reference in enumerate(references):
        for form in (reference, reference.upper(), "“" + ", ".join(reference.split()) + "!”", f"  {reference}\n"):
            (found,) = index.find([form])
            assert (found.reference, found.kind, found.similarity) == (number, "exact", 1.0)


def test_compatibility_forms_of_letters_are_the_same_letters():
    assert plain_words("ﬁne  Ｆｕｌｌ①") == plain_words("fine full1")
    assert plain_words("Straße") == plain_words("STRASSE")


def test_a_text_inside_a_longer_one_is_found(index, references):
    draw = random.Random(5)
    longer = [f"{text(draw, 150)} {reference} {text(draw, 150)}" for reference in references]
    found = index.find(longer)
    assert [overlap.reference for overlap in found] == list(range(len(references)))
    assert all(overlap.kind == "near" and overlap.similarity == pytest.approx(1) for overlap in found)


def test_texts_with_a_fifth_of_their_words_changed_are_found_at_a_high_rate(index, references):
    found = index.find([reworded(reference, 0.2, seed) for seed, reference in enumerate(references)])
    right = [overlap is not None and overlap.reference == number for number, overlap in enumerate(found)]
    assert np.mean(right) > 0.85


def test_other_texts_of_the_same_words_are_left_alone(index):
    draw = random.Random(9)
    assert index.find([text(draw, 30) for _ in range(500)]) == [None] * 500


def test_a_short_text_is_found_only_where_it_is_the_whole_text():
    index = OverlapIndex(["to be or not", "what is the mass of an electron"])
    whole, inside, seven = index.find(
        ["To be, or not?", "he asked whether to be or not to be", "tell me: what is the mass of an electron please"]
    )
    assert whole is not None and whole.kind == "exact"
    assert inside is None
    assert seven is None, "seven words are fewer than min_words"
    (found,) = OverlapIndex(["what is the mass of an electron"], min_words=7).find(
        ["tell me: what is the mass of an electron"]
    )
    assert found is not None and found.kind == "near"


def test_the_most_similar_of_several_is_named():
    draw = random.Random(3)
    original = text(draw, 30)
    index = OverlapIndex([reworded(original, 0.15, 1), original + " extra", reworded(original, 0.1, 2)])
    (found,) = index.find(["before " + original + " extra after"])
    assert found.reference == 1


def test_blocks_and_order_change_nothing(index, references, monkeypatch):
    draw = random.Random(11)
    texts = [text(draw, 20) for _ in range(50)] + [reworded(r, 0.2, 4) for r in references] + ["", "…"]
    draw.shuffle(texts)
    at_once = index.find(texts)
    monkeypatch.setattr("nvembed.data.overlap._BLOCK", 7)
    assert index.find(texts) == at_once
    assert list(reversed(index.find(list(reversed(texts))))) == at_once


def test_nothing_is_found_where_there_is_nothing():
    assert OverlapIndex([]).find(["some text that nobody asked for"]) == [None]
    assert OverlapIndex(["", "!?"]).find(["", "?!"]) == [None, None]
    assert OverlapIndex(["a text of eight words or even more"]).find([]) == []


def test_shares_of_the_second_sieve_are_those_of_a_plain_count():
    """Independent computation: sets of word pairs, weights by hand."""
    draw = random.Random(2)
    references = [text(draw, 60) for _ in range(12)]
    others = [f"{text(draw, 20)} {references[n][:150]} {text(draw, 10)}" for n in range(12)]
    pairs, weights = _sketches(references)
    shares = (_known(_word_pairs(others), pairs) @ weights).toarray()

    def pairs_of(given: str) -> set[tuple[str, str]]:
        words = given.split()
        return set(pairwise(words))

    held_by = {pair: sum(pair in pairs_of(r) for r in references) for r in references for pair in pairs_of(r)}
    for column, reference in enumerate(references):
        counts = sorted(held_by[pair] for pair in pairs_of(reference))[:SKETCH]
        for row, other in enumerate(others):
            rare = [pair for pair in pairs_of(reference) if held_by[pair] < counts[-1]]
            total = sum(np.log(13 / count) for count in counts)
            least = sum(np.log(13 / held_by[pair]) for pair in rare if pair in pairs_of(other)) / total
            tied = [pair for pair in pairs_of(reference) if held_by[pair] == counts[-1] and pair in pairs_of(other)]
            places = counts.count(counts[-1])
            most = least + min(len(tied), places) * np.log(13 / counts[-1]) / total
            assert least - 1e-5 <= shares[row, column] <= most + 1e-5
