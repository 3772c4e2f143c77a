"""Copies of a text in other clothes are known, texts on the same matter are not."""

from __future__ import annotations

import numpy as np
import pytest

from nvembed.core.errors import UserError
from nvembed.data.near_copies import jaccard, ngrams
from nvembed.mining.nearness import NearText

POSITIVE = (
    "Return a list of the words in the string, using sep as the delimiter string. If maxsplit is given, at most "
    "maxsplit splits are done, and the rest of the string is returned as the last element of the list. If maxsplit "
    "is not given, all possible splits are made, however many there are of them in the string that was given."
)
QUERY = "How do I split a string into a list of its words at a given delimiter in Python?"
COPIES = {
    "the same": POSITIVE,
    "other case": POSITIVE.upper(),
    "other punctuation": POSITIVE.replace(",", " –").replace(".", "!").replace(" ", "  "),
    "one word changed": POSITIVE.replace("delimiter", "separator"),
    "two words left out": POSITIVE.replace("possible ", "").replace("however ", ""),
    "one sentence appended": POSITIVE + " This function was added in version two.",
    "one sentence put before": "New in this version. " + POSITIVE,
    "its end cut off": POSITIVE[: POSITIVE.index(", however")],
    "the query itself": QUERY.lower().rstrip("?"),
}
OTHERS = {
    "the same matter": "Split the string at the first occurrence of sep, and return a 3-tuple containing the part "
    "before the separator, the separator itself, and the part after the separator.",
    "the same matter, close wording": "Return a list of the lines in the string, breaking at line boundaries. Line "
    "breaks are not included in the resulting list unless keepends is given and true, whatever kind of them it is.",
    "a small part of it": "Return a list of the words in the string, using sep as the delimiter string.",
    "the same words in another order": " ".join(sorted(POSITIVE.split())),
    "twice as long": POSITIVE + " " + " ".join(f"other{number}" for number in range(60)),
    "empty": "",
    "punctuation": "?!",
}


@pytest.mark.parametrize("text", COPIES.values(), ids=COPIES)
def test_a_copy_in_other_clothes_is_near(text: str) -> None:
    assert NearText(0.7)(text, [QUERY, POSITIVE])


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_a_text_on_the_same_matter_is_not_near(text: str) -> None:
    assert not NearText(0.7)(text, [QUERY, POSITIVE])


def test_containment_sees_what_the_ngrams_do_not() -> None:
    short = "who built the old copper bridge"
    longer = f"{short} once"
    assert jaccard(ngrams(short), ngrams(longer)) < 0.7
    assert NearText(0.7)(longer, [short])
    assert NearText(0.7)(short, [longer])
    assert not NearText(0.7, contained=0.9)(longer, [short])


def test_a_part_is_one_of_whole_words() -> None:
    assert not NearText(0.9)("a road to the old art", ["a road to the old arts"])
    assert NearText(0.9)("road to the old arts", ["a road to the old arts"])


def test_texts_without_words_are_near_to_themselves_alone() -> None:
    near = NearText(0.7)
    assert near("?!", ["?!"])
    assert not near("?!", ["!?", "", "word"])
    assert not near("?!", [])


def random_texts(count: int, seed: int) -> list[str]:
    """Texts and reworked copies of them, some with phrases many times over."""
    drawn = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        words = drawn.choice(12, drawn.integers(1, 40)).astype(str).tolist()
        texts.append(" ".join(words))
        for place in drawn.integers(0, len(words), drawn.integers(0, 4)):
            words[place] = "x"
        texts.append(" ".join(words * int(drawn.integers(1, 3))))
    return texts


@pytest.mark.parametrize("threshold", [0.3, 0.7, 1.0])
def test_the_early_exit_changes_no_answer(threshold: float) -> None:
    texts = random_texts(60, 5)
    grams = [ngrams(text) for text in texts]
    # with `contained` at 1 only equal word sequences are parts, which Jaccard finds too
    near = NearText(threshold, contained=1.0)
    answers = {(a, b): near(texts[a], [texts[b]]) for a in range(len(texts)) for b in range(len(texts))}
    assert answers == {(a, b): jaccard(grams[a], grams[b]) >= threshold for a, b in answers}
    assert 0 < sum(answers.values()) < len(answers)


def test_a_small_cache_changes_no_answer_and_stays_small() -> None:
    texts = random_texts(40, 6)
    wide, narrow = NearText(0.5), NearText(0.5, cached_words=100)
    for text in texts:
        assert wide(text, texts[:20]) == narrow(text, texts[:20])
    assert sum(cut.count for cut in narrow._cuts.values()) == narrow._held <= 100
    assert len(wide._cuts) == len(set(texts))


def test_a_text_is_cut_once_while_it_is_kept() -> None:
    near = NearText(0.7)
    near(POSITIVE, [QUERY])
    before = dict(near._cuts)
    near(POSITIVE.upper(), [POSITIVE])
    assert all(near._cuts[key] is cut for key, cut in before.items())


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    with pytest.raises(UserError, match="set it above 0 and at most 1"):
        NearText(threshold)
