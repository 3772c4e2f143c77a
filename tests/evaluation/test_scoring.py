"""A local set's scores are what an independent computation over the same vectors gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import v_measure_score

from nvembed.data.evalsets import write_retrieval
from nvembed.data.example import Pair
from nvembed.evaluation.bm25 import BM25Model
from nvembed.evaluation.scoring import Scored, score_set
from nvembed.evaluation.sets import EvalSet, read_sets
from nvembed.evaluation.wrapper import MTEBEncoder
from nvembed.recipe import load_recipe
from nvembed.recipe.watching import DevCheck
from nvembed.training.dev_check import read_dev_tasks

Encode = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def sets(eval_folder: Path) -> dict[str, EvalSet]:
    return {source.name: source for source in read_sets(eval_folder, ["test"])}


def score(source: EvalSet, encode: Encode) -> Scored:
    return score_set(source, MTEBEncoder(encode, name="words"), seed=17)


def test_ndcg_equals_a_float64_computation_by_hand(sets: dict[str, EvalSet], encode_words: Encode) -> None:
    source = sets["retrieval"]
    queries = encode_words(list(source.queries.values()), source.instruction).astype(np.float64)
    corpus = encode_words(list(source.corpus.values())).astype(np.float64)
    expected = []
    for row, query in enumerate(source.queries):
        ranking = np.array(list(source.corpus))[np.argsort(-corpus @ queries[row])].tolist()
        place = ranking.index(next(iter(source.qrels[query])))
        expected.append(1 / np.log2(place + 2) if place < 10 else 0.0)
    scored = score(source, encode_words)
    assert 0.1 < np.mean(expected) < 0.95
    assert [item["score"] for item in scored.items] == pytest.approx(expected)
    assert scored.score == pytest.approx(np.mean(expected))
    assert scored.scores["ndcg_at_10"] == pytest.approx(scored.score, abs=1e-5)
    for item in scored.items:
        reached = 1 / np.log2(item["rank"] + 1) if item["rank"] and item["rank"] <= 10 else 0
        assert item["score"] == pytest.approx(reached)


def test_accuracy_is_the_mean_of_what_items_got_right_over_the_experiments(
    sets: dict[str, EvalSet], encode_words: Encode
) -> None:
    source = sets["classification"]
    scored = score(source, encode_words)
    train, test = (encode_words(part[0], source.instruction) for part in (source.train, source.test))
    order = list(range(len(train)))
    expected = []
    for _ in range(10):
        np.random.RandomState(17).shuffle(order)
        labels = np.array(source.train[1])[order]
        chosen = np.concatenate([np.array(order)[labels == label][:8] for label in range(4)])
        fitted = LogisticRegression(max_iter=100).fit(train[chosen], np.array(source.train[1])[chosen])
        expected.append(np.mean(fitted.predict(test) == np.array(source.test[1])))
    assert 0.3 < np.mean(expected) < 1
    assert scored.score == pytest.approx(np.mean(expected), abs=5e-3)
    assert scored.score == pytest.approx(np.mean([item["score"] for item in scored.items]))


def test_v_measure_from_the_kept_clusters_is_sklearns_and_mtebs(sets: dict[str, EvalSet], encode_words: Encode) -> None:
    scored = score(sets["clustering"], encode_words)
    items = scored.items
    by_clustering = []
    for number in range(10):
        rows = [item for item in items for _ in range(item["draws"][number])]
        by_clustering.append(v_measure_score([r["target"] for r in rows], [r["predictions"][number] for r in rows]))
    assert 0.1 < np.mean(by_clustering) < 1
    assert scored.score == pytest.approx(np.mean(by_clustering), abs=1e-12)
    assert scored.scores["v_measure"] == pytest.approx(scored.score, abs=1e-6)


def test_the_same_model_scores_the_same_to_the_last_digit(sets: dict[str, EvalSet], encode_words: Encode) -> None:
    for source in sets.values():
        first, again = score(source, encode_words), score(source, encode_words)
        assert (first.scores, first.items) == (again.scores, again.items)


def test_bm25_ranks_as_mtebs_own_bm25_baseline(sets: dict[str, EvalSet]) -> None:
    from mteb.models.model_implementations.bm25 import BM25Search

    class Baseline(BM25Search):
        mteb_model_meta: Any = BM25Model().mteb_model_meta

    ours, theirs = (score_set(sets["retrieval"], model, 17) for model in (BM25Model(), Baseline()))
    assert 0.2 < ours.score < 1
    assert ours.scores == theirs.scores


def test_instructions_go_to_queries_and_to_both_sides_of_symmetric_tasks(
    sets: dict[str, EvalSet], encode_words: Encode
) -> None:
    seen: dict[str, set[str]] = {}

    def encode(texts: list[str], instruction: str) -> np.ndarray:
        for text in texts:
            seen.setdefault(text, set()).add(instruction)
        return encode_words(texts, instruction)

    for source in sets.values():
        score(source, encode)
    retrieval, classification = sets["retrieval"], sets["classification"]
    assert all(seen[text] == {retrieval.instruction} for text in retrieval.queries.values())
    assert all(seen[text] == {""} for text in retrieval.corpus.values())
    assert all(seen[text] == {classification.instruction} for text in classification.test[0])


def test_a_card_gets_its_prefixes_and_no_instruction(sets: dict[str, EvalSet], encode_words: Encode) -> None:
    seen: set[tuple[str, str]] = set()

    def encode(texts: list[str], instruction: str) -> np.ndarray:
        seen.update((text.split(": ")[0], instruction) for text in texts)
        return encode_words(texts)

    card = MTEBEncoder(encode, name="card", instructions=False, query_prefix="query: ", document_prefix="passage: ")
    score_set(sets["retrieval"], card, 17)
    assert seen == {("query", ""), ("passage", "")}
    score_set(sets["clustering"], card, 17)
    assert seen == {("query", ""), ("passage", "")}


def test_equal_texts_under_an_equal_instruction_are_encoded_once(
    sets: dict[str, EvalSet], encode_words: Encode
) -> None:
    asked: list[tuple[str, str]] = []

    def encode(texts: list[str], instruction: str) -> np.ndarray:
        asked.extend((text, instruction) for text in texts)
        return encode_words(texts, instruction)

    model = MTEBEncoder(encode, name="words")
    for name in ("classification", "clustering", "retrieval", "retrieval"):  # the first two share texts
        score_set(sets[name], model, 17)
    assert len(asked) == len(set(asked)) == model.texts_encoded


def test_a_query_with_a_task_sentence_of_its_own_is_encoded_under_it(tmp_path: Path, encode_words: Encode) -> None:
    pairs = [Pair(f"what is {name}", f"{name} is a thing") for name in ("a fox", "a dog", "a river")]
    own = {pairs[1].query: "Find the dog"}
    write_retrieval(tmp_path / "dev" / "retrieval", pairs, "Find it", instructions=own, others=["one more passage"])
    (source,) = read_sets(tmp_path, ["dev"])
    assert len(source.corpus) == 4
    asked: dict[str, str] = {}

    def encode(texts: list[str], instruction: str) -> np.ndarray:
        asked.update(dict.fromkeys(texts, instruction))
        return encode_words(texts)

    model = MTEBEncoder(encode, name="words")
    model.own_instructions = own
    score_set(source, model, 17)
    assert {asked[pair.query] for pair in pairs[::2]} == {"Find it"} and asked[pairs[1].query] == "Find the dog"
    assert asked["one more passage"] == ""
    (task,) = read_dev_tasks(tmp_path, DevCheck(every=1), load_recipe("tiny").stage1)
    assert {text.text: text.instruction for text in task.texts} == asked, "the check while training reads the same"


def test_mteb_neither_connects_anywhere_nor_writes_to_the_home_folder(
    sets: dict[str, EvalSet], encode_words: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"a connection to {args} was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in sets.values():
        score(source, encode_words)
    assert not list(tmp_path.iterdir())


def test_bm25_reads_a_title_before_the_text() -> None:
    from datasets import Dataset

    from nvembed.evaluation.bm25 import BM25Model

    model = BM25Model()
    model.index(Dataset.from_dict({"id": ["a", "b"], "text": ["sail", "pawn"], "title": ["harbour", None]}))
    assert (
        max(
            model.search(Dataset.from_dict({"id": ["q"], "text": ["harbour"]}), top_k=2)["q"].items(),
            key=lambda hit: hit[1],
        )[0]
        == "a"
    )
