"""The search is exact: the same ids in the same order as a full sort, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nvembed.core.errors import UserError
from nvembed.mining import pair_scores, top_k
from nvembed.mining import search as search_module


def vectors(rows: int, dim: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def sorted_fully(queries: np.ndarray, documents: np.ndarray, k: int) -> np.ndarray:
    scores = (queries.astype(np.float64) @ documents.astype(np.float64).T).astype(np.float32)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize(("query_block", "document_block"), [(512, 16384), (7, 64), (1, 33), (50, 1000)])
def test_finds_what_a_full_sort_finds(query_block: int, document_block: int) -> None:
    queries, documents = vectors(50, 48, 1), vectors(1000, 48, 2)
    found, scores = top_k(queries, documents, 20, query_block=query_block, document_block=document_block)
    np.testing.assert_array_equal(found, sorted_fully(queries, documents, 20))
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ documents.T, found, axis=1), atol=1e-6)


PRECISIONS = ("float32", "bfloat16")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("document_block", [16384, 40, 16])
def test_equal_scores_go_by_position(document_block: int, precision) -> None:
    documents = np.tile(vectors(10, 16, 3), (20, 1))  # each score twenty times over
    queries = vectors(8, 16, 4)
    found, _ = top_k(queries, documents, 50, document_block=document_block, precision=precision)
    np.testing.assert_array_equal(found, sorted_fully(queries, documents, 50))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spread", [1e-1, 1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("document_block", [512, 4096])
def test_documents_that_a_first_pass_cannot_tell_apart_are_told_apart(
    spread: float, document_block: int, precision
) -> None:
    """All documents lie within `spread` of one point: bf16 tells them apart down to about 0.004."""
    rng = np.random.default_rng(21)
    documents = vectors(1, 64, 22) + spread * rng.standard_normal((3000, 64)).astype(np.float32)
    queries = vectors(40, 64, 23)
    found, scores = top_k(queries, documents, 25, document_block=document_block, precision=precision)
    np.testing.assert_array_equal(found, sorted_fully(queries, documents, 25))
    np.testing.assert_array_equal(scores, pair_scores(queries, documents, found))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_below_zero_and_vectors_of_any_length_are_searched_alike(precision) -> None:
    rng = np.random.default_rng(24)
    documents = vectors(2000, 32, 25) * rng.lognormal(0, 2, (2000, 1)).astype(np.float32)
    queries = -np.abs(vectors(30, 32, 26)) * 7
    found, _ = top_k(queries, np.abs(documents), 20, document_block=256, precision=precision)
    np.testing.assert_array_equal(found, sorted_fully(queries, np.abs(documents), 20))


def test_the_best_may_come_last() -> None:
    """Every block beats all before it, so that the first pass keeps nothing of what it saw."""
    documents = vectors(4000, 16, 27)
    queries = vectors(3, 16, 28)
    order = np.argsort(queries[0] @ documents.T)
    found, _ = top_k(queries, documents[order], 30, document_block=128)
    np.testing.assert_array_equal(found, sorted_fully(queries, documents[order], 30))


def test_the_bound_on_a_bf16_score_holds_and_is_needed() -> None:
    queries, documents = vectors(64, 384, 29), vectors(2000, 384, 30)
    search = search_module._Search(documents, 5, torch.bfloat16, "cpu", 512, 16384)
    search.run(queries, lambda done: None)
    rounded = torch.from_numpy(queries).bfloat16()
    approximate = (rounded @ torch.from_numpy(documents).bfloat16().T).double().numpy()
    exact = queries.astype(np.float64) @ documents.astype(np.float64).T
    slack = search._slack(queries, rounded)[:, None] + 2.0**-8 * np.abs(approximate)
    assert (np.abs(approximate - exact) <= slack).all()
    assert np.abs(approximate - exact).max() > 1e-4  # else there would be nothing to bound


def test_one_score_for_all_gives_the_first_documents() -> None:
    found, _ = top_k(np.ones((2, 4), np.float32), np.ones((500, 4), np.float32), 5, document_block=64)
    np.testing.assert_array_equal(found, [[0, 1, 2, 3, 4]] * 2)


def test_a_corpus_smaller_than_the_depth_is_returned_whole() -> None:
    found, scores = top_k(vectors(3, 8, 5), vectors(4, 8, 6), 100)
    assert found.shape == scores.shape == (3, 4)
    assert [sorted(row) for row in found.tolist()] == [[0, 1, 2, 3]] * 3


def test_scores_do_not_depend_on_how_the_work_was_cut() -> None:
    queries, documents = vectors(40, 384, 7), vectors(700, 384, 8)
    whole = top_k(queries, documents, 30)
    cut = top_k(queries, documents, 30, query_block=3, document_block=101)
    np.testing.assert_array_equal(whole[0], cut[0])
    np.testing.assert_array_equal(whole[1], cut[1])


def test_a_pair_scores_alike_alone_and_in_company() -> None:
    queries, documents = vectors(5, 384, 9), vectors(90, 384, 10)
    everything = pair_scores(queries, documents, np.tile(np.arange(90), (5, 1)))
    alone = [[pair_scores(queries[q : q + 1], documents, np.array([[d]]))[0, 0] for d in range(90)] for q in range(5)]
    np.testing.assert_array_equal(everything, np.array(alone))


def test_memory_mapped_documents_are_searched_in_place(tmp_path) -> None:
    documents = vectors(300, 32, 11)
    np.save(tmp_path / "vectors.npy", documents)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    np.testing.assert_array_equal(
        top_k(vectors(4, 32, 12), mapped, 9)[0], sorted_fully(vectors(4, 32, 12), documents, 9)
    )


def test_vectors_that_are_not_finite_are_refused_with_their_row() -> None:
    documents = vectors(20, 8, 13)
    documents[7, 3] = np.nan
    with pytest.raises(UserError, match="vector 7 of the documents is not finite"):
        top_k(vectors(2, 8, 14), documents, 3)


def test_vectors_of_two_widths_are_refused() -> None:
    with pytest.raises(UserError, match="8 dimensions, documents 9"):
        top_k(vectors(2, 8, 15), vectors(2, 9, 16), 1)
