"""Ranks get like numbers of tokens: counted by a real tokenizer on real texts, whose lengths are very uneven."""

import random

import numpy as np
import pytest
from training.plain_loss import example

from nvembed.data.lengths import Lengths
from nvembed.data.pydocs import read_python_docs
from nvembed.modeling import NVEmbedModel
from nvembed.recipe import load_recipe
from nvembed.training.layout import deal, texts_of

LENGTHS = Lengths(negatives=7, query_max_length=512, document_max_length=512)
BATCH = 128
BOUNDS = {2: 1.01, 4: 1.015, 8: 1.03}


def dealt(batch, world, lengths=LENGTHS):
    return deal([texts_of(one, lengths) for one in batch], world)


def strings(one):
    return {one.query, one.positive, *one.negatives}


@pytest.fixture(scope="module")
def batches():
    """Batches of summaries with their passage and seven others, and the tokens of each text."""
    pairs = read_python_docs().pairs[:600]
    draw = random.Random(0)
    passages = [pair.positive for pair in pairs]
    made = [
        [example(pair.query, pair.positive, draw.sample(passages, 7)) for pair in draw.sample(pairs, BATCH)]
        for _ in range(3)
    ]
    texts = list({text for batch in made for one in batch for text in strings(one)})
    tokenized = NVEmbedModel.from_section(load_recipe("laptop").model).tokenize(texts, "", 512)
    return made, {text: len(item.input_ids) for text, item in zip(texts, tokenized, strict=True)}


@pytest.mark.parametrize("world", list(BOUNDS))
def test_the_fullest_rank_has_hardly_more_tokens_than_the_mean(batches, world):
    made, tokens = batches
    ratios = []
    for batch in made:
        hands = dealt(batch, world)
        assert sorted(index for hand in hands for index in hand) == list(range(BATCH))
        distinct = [set().union(*(strings(batch[index]) for index in hand)) for hand in hands]
        loads = [sum(tokens[text] for text in some) for some in distinct]
        ratios.append(max(loads) / np.mean(loads))
    print(f"{world} ranks: tokens of the fullest over the mean {np.mean(ratios):.3f}, at worst {max(ratios):.3f}")
    assert np.mean(ratios) < BOUNDS[world]


def test_a_long_example_counts_as_many_short_ones():
    batch = [example("q", "long " * 200), *(example(f"q{i}", "short " * 10 + str(i)) for i in range(9))]
    first, second = dealt(batch, 2)
    assert sorted([len(first), len(second)]) == [1, 9]


def test_texts_count_as_far_as_they_are_encoded():
    batch = [example("q", "long " * 100), *(example(f"q{i}", "short " * 10 + str(i)) for i in range(9))]
    cut = Lengths(negatives=0, query_max_length=8, document_max_length=10)
    assert [len(hand) for hand in dealt(batch, 2, cut)] == [5, 5]
    unused = [example(f"q{i}", f"p{i}", ["n " * 400] if i == 0 else []) for i in range(10)]
    assert [len(hand) for hand in dealt(unused, 2, cut)] == [5, 5]


def test_a_text_that_a_rank_has_already_costs_it_nothing():
    shared = "a passage that two queries share " * 10
    batch = [example("q1", shared), example("q2", "another passage " * 30), example("q3", shared)]
    assert dealt(batch, 2) == [[1], [0, 2]]


def test_every_rank_gets_an_example_even_where_all_texts_are_the_same():
    batch = [example("q", "p") for _ in range(4)]
    assert [len(hand) for hand in dealt(batch, 4)] == [1, 1, 1, 1]
    assert all(dealt(batch, 3))
