"""Which negatives rows get: searched deeper where the rule starves, drawn where it is asked, from several teachers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mining_stand_in import TEXTS, dataset, example, section

from nvembed.core.artifacts import read_manifest
from nvembed.data import read_examples
from nvembed.data.text_file import text_file
from nvembed.mining import mine, score_ceiling
from nvembed.mining.pools import Pool, read_pools
from nvembed.mining.result import Tally
from nvembed.mining.rules import hash_noise, softmax_order
from nvembed.mining.selection import select
from nvembed.recipe import Mining, Resources

QUERIES = [f"question number {number}" for number in range(12)]


class Table:
    """A teacher that has its scores written down, (queries, documents), and counts how deep it was asked to look."""

    fingerprint = "table"

    def __init__(self, scores: np.ndarray) -> None:
        self.scores, self.asked = scores.astype(np.float32), Counter[int]()

    def nearest(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked[depth] += len(queries)
        order = np.argsort(-self.scores[queries][:, : len(TEXTS)], axis=1, kind="stable")[:, :depth]
        return order, np.take_along_axis(self.scores[queries], order, axis=1)

    def pair_scores(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        return np.take_along_axis(self.scores[queries], documents, axis=1)


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    folder = dataset(tmp_path / "dataset", [example(q, TEXTS[n]) for n, q in enumerate(QUERIES)], TEXTS)
    with text_file(tmp_path) as file:
        (pool,) = read_pools(folder, read_manifest(folder), file)
        yield pool


def table(seed: int = 1) -> Table:
    return Table(np.random.default_rng(seed).uniform(0.2, 1.0, (len(QUERIES), len(TEXTS))))


def chosen(pool: Pool, mining: Mining, *teachers: Table) -> tuple[list[list[int]], Tally]:
    tally = Tally()
    found = select(teachers, pool, mining, tally, None)
    return [[d for d in row if d >= 0] for row in found.documents.tolist()], tally


def by_hand(pool: Pool, teacher: Table, mining: Mining, row: int) -> list[int]:
    """All of the corpus, sorted and filtered in the plainest way."""
    query, positive = pool.query_of_row[row], pool.positive_of_row[row]
    scores = teacher.scores[query].astype(np.float64)
    ceiling = score_ceiling(mining.method, mining.threshold, scores[positive : positive + 1])[0]
    order = [d for d in np.argsort(-scores, kind="stable") if d != positive and scores[d] < ceiling]
    return [int(d) for d in order[: mining.num_negatives]]


@pytest.mark.parametrize("depth", [1, 3, 10, 48])
def test_the_depth_to_start_from_changes_nothing_that_is_found(pool: Pool, depth: int) -> None:
    mining, teacher = section(depth=depth, threshold=0.7), table()
    found, tally = chosen(pool, mining, teacher)
    assert found == [by_hand(pool, teacher, mining, row) for row in range(len(QUERIES))]
    assert sum(tally.depths.values()) == len(QUERIES)


def test_only_queries_that_fall_short_are_searched_deeper(pool: Pool) -> None:
    teacher, mining = table(), section(depth=4, threshold=0.7)
    easy = np.arange(0, len(QUERIES), 2)  # their positive scores far above all else, so whatever is nearest will do
    teacher.scores[pool.query_of_row[easy], pool.positive_of_row[easy]] = 2.0
    found, tally = chosen(pool, mining, teacher)
    assert teacher.asked[8] == len(QUERIES) // 2
    assert sorted(teacher.asked) == [4, 8, 16, 32, 48][: len(teacher.asked)]
    asked = [teacher.asked[depth] for depth in sorted(teacher.asked)]
    assert asked[0] == len(QUERIES) and asked == sorted(asked, reverse=True) and asked[1] < asked[0]
    assert tally.depths == {d: n - m for d, n, m in zip(sorted(teacher.asked), asked, [*asked[1:], 0], strict=True)}
    assert [len(found[row]) for row in easy] == [3] * len(easy)


def test_the_deepest_search_is_the_recipes(pool: Pool) -> None:
    teacher, mining = table(), section(depth=4, max_depth=8, threshold=0.3)
    found, tally = chosen(pool, mining, teacher)
    assert tally.depth == 8
    assert any(len(row) < 3 for row in found)
    assert tally.candidates == sum(depth * queries for depth, queries in tally.depths.items())


def test_the_union_takes_each_teachers_best_in_turn_and_none_twice(pool: Pool) -> None:
    first, second, mining = table(1), table(2), section(method="naive", num_negatives=4)
    both, _ = chosen(pool, mining, first, second)
    for row, found in enumerate(both):
        one, other = by_hand(pool, first, mining, row), by_hand(pool, second, mining, row)
        turns = [document for pair in zip(one, other, strict=True) for document in pair]
        assert found == list(dict.fromkeys(turns))[:4]


def test_scores_of_a_union_are_the_first_teachers(pool: Pool) -> None:
    first, second = table(1), table(2)
    found = select([first, second], pool, section(method="naive", num_negatives=4), Tally(), None)
    expected = np.take_along_axis(first.scores[pool.query_of_row], found.documents, axis=1)
    np.testing.assert_array_equal(found.scores, expected)


def test_near_copies_make_room_for_the_next(pool: Pool) -> None:
    teacher, mining = table(), section(method="naive", num_negatives=3)
    plain, _ = chosen(pool, section(method="naive", num_negatives=len(TEXTS)), teacher)
    asked: list[list[str]] = []

    def near(text: str, references) -> bool:
        asked.append(list(references))
        return text.startswith("Close")

    tally = Tally()
    found = select([teacher], pool, mining, tally, near).documents.tolist()
    texts = pool.documents_of(np.arange(len(TEXTS)))
    assert found == [[d for d in row if not texts[d].startswith("Close")][:3] for row in plain]
    assert tally.dropped["near"] > 0
    assert all(len(one) == 2 and one[0] in QUERIES for one in asked)  # the query and its positive


def test_a_draw_is_the_same_whatever_the_depth_and_the_order_of_rows(pool: Pool) -> None:
    drawn = {"enabled": True, "top": 5, "temperature": 0.2}
    one, _ = chosen(pool, section(depth=6, sampling=drawn, method="naive"), table())
    other, _ = chosen(pool, section(depth=40, sampling=drawn, method="naive"), table())
    best, _ = chosen(pool, section(num_negatives=5, method="naive"), table())
    assert one == other
    assert all(set(row) <= set(top) for row, top in zip(one, best, strict=True))
    assert one != [row[:3] for row in best]
    again, _ = chosen(pool, section(depth=6, sampling=drawn, method="naive", seed=18), table())
    assert again != one


def test_first_draws_follow_the_softmax() -> None:
    scores, temperature, draws = np.array([0.9, 0.8, 0.6, 0.1]), 0.2, 20_000
    documents = np.arange(4, dtype=np.uint64) * np.uint64(0x0123456789ABCDEF)
    first, second = Counter[int](), Counter[int]()
    for query in range(draws):
        order = softmax_order(scores, hash_noise(17, query, documents), temperature)
        first[int(order[0])] += 1
        second[int(order[1])] += int(order[0]) == 0
    weights = np.exp(scores / temperature)
    expected = weights / weights.sum()
    # five standard deviations of a share of 20,000 draws
    np.testing.assert_allclose([first[d] / draws for d in range(4)], expected, atol=5 * 0.5 / draws**0.5)
    rest = weights[1:] / weights[1:].sum()
    np.testing.assert_allclose([second[d] / first[0] for d in (1, 2, 3)], rest, atol=5 * 0.5 / first[0] ** 0.5)


def test_a_pair_of_bm25_and_a_model_gives_negatives_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    folder = dataset(tmp_path / "dataset", [example(f"how to {t.lower()}", t) for t in TEXTS[:10]], TEXTS)
    mining = section(method="naive", num_negatives=4, more_teachers=[{"kind": "bm25"}], near_copies=None)
    for name, changes in {
        "both": {},
        "model": {"more_teachers": []},
        "words": {"teacher": {"kind": "bm25"}, "more_teachers": []},
    }.items():
        changed = Mining.model_validate(mining.model_dump() | changes)
        mine(changed, Resources(device="cpu"), folder, tmp_path / name)
    both, model, words = (read_examples(tmp_path / name) for name in ("both", "model", "words"))
    for b, m, w in zip(both, model, words, strict=True):
        assert set(m.negatives[:2]) <= set(b.negatives) and set(w.negatives[:2]) <= set(b.negatives)
    assert len(read_manifest(tmp_path / "both").extra["teachers"]) == 2
