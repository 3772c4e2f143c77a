"""The BM25 teacher's scores are the formula's, in whatever way they are asked for."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter

import bm25s
import numpy as np
import pytest
import Stemmer
from bm25s.stopwords import STOPWORDS_EN
from datasets import Dataset

from nvembed.mining.lexical import LexicalIndex

SUBJECTS = ["bridges", "copper", "peppers", "rockets", "letters", "rivers", "farmers", "markets", "the", "numbers"]
VERBS = ["selling", "sells", "built", "building", "writes", "wrote", "and", "crossing", "counts", "of"]


def sentences(count: int, seed: int) -> list[str]:
    drawn = np.random.default_rng(seed)
    vocabulary = [*SUBJECTS, *VERBS, *(f"word{number}" for number in range(60))]
    return [" ".join(drawn.choice(vocabulary, drawn.integers(1, 30))) for _ in range(count)]


@functools.cache
def words_of(text: str) -> list[str]:
    stem = Stemmer.Stemmer("english").stemWord
    return [stem(word) for word in re.findall(r"\b\w\w+\b", text.lower()) if word not in STOPWORDS_EN]


def from_the_formula(query: str, text: str, corpus: list[str]) -> float:
    """Lucene's BM25 as written, one word at a time, in double precision."""
    documents = [words_of(one) for one in corpus]
    average = sum(map(len, documents)) / len(documents)
    words = words_of(text)
    total = 0.0
    for word in words_of(query):
        holders = sum(word in document for document in documents)
        frequency = words.count(word)
        if holders:
            idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
            total += idf * frequency / (frequency + 1.5 * (1 - 0.75 + 0.75 * len(words) / average))
    return total


def index_of(texts: list[str], batch: int = 7) -> LexicalIndex:
    return LexicalIndex(texts[start : start + batch] for start in range(0, len(texts), batch))


CORPUS = [*sentences(60, 1), "", "the and of", "Copper copper COPPER!"]
QUERIES = [*sentences(12, 2), "copper", "copper copper bridge", "never-seen-before pepper"]


def test_every_pair_scores_as_the_formula_says() -> None:
    everything = np.tile(np.arange(len(CORPUS)), (len(QUERIES), 1))
    expected = [[from_the_formula(query, text, CORPUS) for text in CORPUS] for query in QUERIES]
    assert np.count_nonzero(expected) > 300
    np.testing.assert_allclose(index_of(CORPUS).pair_scores(QUERIES, everything), expected, rtol=1e-6, atol=1e-9)


def test_the_best_are_those_of_the_formula_and_no_document_stands_without_a_shared_word() -> None:
    found, scores = index_of(CORPUS).top_k(QUERIES, len(CORPUS) + 5)
    assert found.shape == scores.shape == (len(QUERIES), len(CORPUS))
    for query, row, row_scores in zip(QUERIES, found, scores, strict=True):
        expected = np.array([from_the_formula(query, text, CORPUS) for text in CORPUS]).astype(np.float32)
        order = [number for number in np.argsort(-expected, kind="stable") if expected[number] > 0]
        np.testing.assert_allclose(row_scores[: len(order)], expected[row[: len(order)]], rtol=1e-6)
        assert sorted(row[: len(order)].tolist()) == sorted(order)
        assert row[len(order) :].tolist() == [-1] * (len(CORPUS) - len(order))
        assert np.isneginf(row_scores[len(order) :]).all()


def test_scores_are_those_of_bm25s() -> None:
    index = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    stemmer = Stemmer.Stemmer("english")
    index.index(bm25s.tokenize(CORPUS, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False)
    asked = bm25s.tokenize(QUERIES, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
    theirs = np.array([index.get_scores(words) for words in asked])
    everything = np.tile(np.arange(len(CORPUS)), (len(QUERIES), 1))
    np.testing.assert_allclose(index_of(CORPUS).pair_scores(QUERIES, everything), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_a_pairs_score_does_not_depend_on_how_it_was_found(k: int) -> None:
    index = index_of(CORPUS)
    found, scores = index.top_k(QUERIES, k)
    np.testing.assert_array_equal(index.pair_scores(QUERIES, found), scores)
    rows, columns = np.nonzero(found >= 0)
    pairs = [(QUERIES[row], CORPUS[found[row, column]]) for row, column in zip(rows, columns, strict=True)]
    np.testing.assert_array_equal(index.text_scores(*map(list, zip(*pairs, strict=True))), scores[rows, columns])


def test_a_text_outside_the_index_is_scored_by_the_indexs_statistics() -> None:
    texts = [*sentences(len(QUERIES) - 1, 3), ""]
    expected = [from_the_formula(query, text, CORPUS) for query, text in zip(QUERIES, texts, strict=True)]
    assert np.count_nonzero(expected) > 8
    np.testing.assert_allclose(index_of(CORPUS).text_scores(QUERIES, texts), expected, rtol=1e-6)
    # words that the index lacks make a text longer and so its score smaller
    plain, longer = index_of(CORPUS).text_scores(["copper"] * 2, ["copper", "copper unheard unseen"])
    assert 0 < longer < plain


@pytest.mark.parametrize("k", [1, 4, 9, 10])
def test_equal_scores_go_by_number(k: int) -> None:
    documents = ["rivers run", "a copper bridge", "bridges copper", "other words", "copper bridge"] * 3
    found, scores = index_of(documents).top_k(["copper bridge"], k)
    assert found[0].tolist() == [1, 2, 4, 6, 7, 9, 11, 12, 14, -1][:k]
    assert len(set(scores[0, : min(k, 9)].tolist())) == 1


def test_queries_without_a_known_word_find_nothing() -> None:
    queries = ["", "the and of", "zyzzyva", "?!"]
    found, scores = index_of(CORPUS).top_k(queries, 3)
    assert (found == -1).all()
    assert np.isneginf(scores).all()
    assert (index_of(CORPUS).pair_scores(queries, np.zeros((4, 2), np.int64)) == 0).all()
    assert (index_of(CORPUS).text_scores(queries, queries) == 0).all()


def test_a_pair_without_a_document_is_minus_infinity() -> None:
    scores = index_of(CORPUS).pair_scores(["copper"], np.array([[len(CORPUS) - 1, -1]]))
    assert scores[0, 0] > 0
    assert np.isneginf(scores[0, 1])


@pytest.mark.parametrize("batch", [1, 10, 1000])
def test_how_the_documents_were_cut_into_batches_changes_nothing(batch: int) -> None:
    whole, cut = index_of(CORPUS, 13), index_of(CORPUS, batch)
    for one, other in zip(whole.top_k(QUERIES, 20), cut.top_k(QUERIES, 20), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_empty_index_finds_nothing() -> None:
    for index in (LexicalIndex([]), LexicalIndex([["", "the"]])):
        found, _ = index.top_k(["copper"], 5)
        assert found.shape == (1, min(5, index.count))
        assert (found == -1).all()
        assert index.text_scores(["copper"], ["copper"]).tolist() == [0]


def test_batches_are_read_once_and_in_turn() -> None:
    held = []

    def batches() -> object:
        for start in range(0, 40, 10):
            held.append(start)
            yield CORPUS[start : start + 10]

    assert LexicalIndex(batches()).count == 40  # type: ignore[arg-type]
    assert held == [0, 10, 20, 30]


def test_the_baseline_reads_texts_as_the_teacher_does() -> None:
    from nvembed.evaluation.bm25 import BM25Model

    model = BM25Model()
    model.index(Dataset.from_dict({"id": [str(number) for number in range(len(CORPUS))], "text": CORPUS}))
    hits = model.search({"id": ["q"], "text": ["building bridges of copper"]}, top_k=5)["q"]
    numbers = np.array([[int(name) for name in hits]])
    scores = index_of(CORPUS).pair_scores(["building bridges of copper"], numbers)[0]
    np.testing.assert_allclose(scores, list(hits.values()), rtol=1e-5)
    assert Counter(numbers[0].tolist()) == Counter(index_of(CORPUS).top_k(["building bridges of copper"], 5)[0][0])
