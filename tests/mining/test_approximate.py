"""An approximate index finds most of what an exact search finds, the same each time, and refuses what cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from nvembed.core.errors import UserError
from nvembed.mining import top_k
from nvembed.mining.approximate import ApproximateIndex, recall


def vectors(rows: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors about 30 centres, as texts lie about subjects."""
    drawn = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((30, dim))
    found = centres[drawn.integers(0, 30, rows)] + 0.7 * drawn.standard_normal((rows, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


DOCUMENTS, QUERIES = vectors(4000, 32, 1), vectors(60, 32, 2)
EXACT = top_k(QUERIES, DOCUMENTS, 20)[0]


@pytest.mark.parametrize(
    ("factory", "least"),
    [("Flat", 1.0), ("HNSW32", 0.95), ("IVF64,Flat", 0.9), ("IVF64,SQ8", 0.85), ("PCA16,IVF32,Flat", 0.3)],
)
def test_it_finds_most_of_the_exact_neighbours(factory: str, least: float) -> None:
    found = ApproximateIndex(DOCUMENTS, factory).search(QUERIES, 20)
    assert found.shape == (60, 20)
    assert found.dtype == np.int64
    assert recall(found, EXACT) >= least


@pytest.mark.parametrize("factory", ["HNSW8", "IVF64,Flat"])
def test_more_effort_finds_more(factory: str) -> None:
    index = ApproximateIndex(DOCUMENTS, factory)
    shares = [recall(index.search(QUERIES, 20, effort=effort), EXACT) for effort in (1, 64, 4000)]
    assert shares[0] < shares[1] <= shares[2]
    assert shares[2] > 0.99


def test_every_list_looked_into_is_an_exact_search() -> None:
    index = ApproximateIndex(DOCUMENTS, "IVF64,Flat")
    assert index.lists == 64
    np.testing.assert_array_equal(index.search(QUERIES, 20, effort=64), EXACT)


@pytest.mark.parametrize(
    ("factory", "threads"),
    [("HNSW16", (1, 4)), ("IVF64,Flat", (4, 4)), ("IVF32_HNSW8,SQ8", (4, 4)), ("PCA16,IVF32,Flat", (4, 4))],
)
def test_the_same_index_comes_of_the_same_seed(factory: str, threads: tuple[int, int]) -> None:
    built = []
    before = faiss.omp_get_max_threads()
    try:
        for count in threads:
            faiss.omp_set_num_threads(count)
            built.append(ApproximateIndex(DOCUMENTS, factory, seed=3, block=1500))
    finally:
        faiss.omp_set_num_threads(before)
    one, other = built
    assert (faiss.serialize_index(one._index) == faiss.serialize_index(other._index)).all()
    np.testing.assert_array_equal(one.search(QUERIES, 20, effort=4), other.search(QUERIES, 20, effort=4))


def test_lists_do_not_depend_on_blocks_but_on_the_seed() -> None:
    def found(seed: int, block: int) -> list[list[int]]:
        return ApproximateIndex(DOCUMENTS, "IVF64,Flat", seed=seed, block=block).search(QUERIES, 20, effort=2).tolist()

    assert found(3, 4000) == found(3, 170)
    assert found(3, 4000) != found(4, 4000)


def test_memory_mapped_vectors_of_half_precision_are_indexed(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", DOCUMENTS.astype(np.float16))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    assert recall(ApproximateIndex(mapped, "IVF64,Flat", block=900).search(QUERIES, 20, effort=64), EXACT) > 0.95


def test_where_there_is_no_more_there_is_minus_one() -> None:
    found = ApproximateIndex(DOCUMENTS[:7], "HNSW8").search(QUERIES[:2], 10)
    assert sorted(found[0, :7].tolist()) == list(range(7))
    assert (found[:, 7:] == -1).all()


def test_the_number_of_threads_is_left_as_it_was() -> None:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        ApproximateIndex(DOCUMENTS[:100], "PCA8,Flat")
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("HSNW32", "could not parse index string HSNW32.*give for example 'HNSW32'.*or 'IVF1024,Flat'"),
        ("", "could not parse"),
        ("LSH", "METRIC_L2"),
        ("IVF16,PQ7", "should be a multiple of the number of subquantizers"),
        ("IVF99999999999999999999,Flat", "stoi"),
        ("IVF0,Flat", "has a size of 0"),
        ("IVF16,PQ0", "has a size of 0"),
        ("HNSW0", "has a size of 0"),
        ("IVF128,Flat", "has more lists than the 100 documents; ask for IVF10"),
        ("IVF16,PQ8", "cannot build it from 100 documents"),
    ],
)
def test_a_factory_that_cannot_be_is_refused(factory: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ApproximateIndex(DOCUMENTS[:100], factory)
    assert f"ann factory {factory!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factory", ["HNSW8", "IVF16,Flat"])
def test_a_vector_that_is_not_finite_is_refused_with_its_row(factory: str) -> None:
    documents = DOCUMENTS.copy()
    documents[3017, 5] = np.inf
    with pytest.raises(UserError, match="vector 3017 of the documents is not finite"):
        ApproximateIndex(documents, factory, block=1000)


def test_queries_of_another_width_are_refused() -> None:
    with pytest.raises(UserError, match="queries have 16 dimensions, documents 32"):
        ApproximateIndex(DOCUMENTS, "Flat").search(QUERIES[:, :16], 3)


def test_without_faiss_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"faiss is not installed; pip install 'nvembed\[ann\]'"):
        ApproximateIndex(DOCUMENTS, "Flat")


def test_recall_counts_what_was_found_of_what_there_is() -> None:
    exact = np.array([[1, 2, 3, 4], [5, 6, -1, -1]])
    assert recall(np.array([[4, 3, 2, 1, 9], [6, 5, -1, -1, -1]]), exact) == 1.0
    assert recall(np.array([[4, 9, 8, -1, -1], [1, 2, 3, 4, 5]]), exact) == 2 / 6
    assert recall(np.array([[5, 6], [1, 2]]), exact) == 0.0
    assert recall(np.array([[1]]), np.array([[-1]])) == 1.0
