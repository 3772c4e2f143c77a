"""A user's own set becomes a task, or one line says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nvembed.core.errors import UserError
from nvembed.evaluation.own_sets import own_digest, read_own, set_digest
from nvembed.evaluation.sets import EvalSet
from nvembed.recipe import OwnSet

CORPUS = [{"_id": "d1", "title": "Bread", "text": "Knead the dough."}, {"_id": "d2", "text": "Set the sail."}]
QUERIES = [
    {"_id": "q1", "text": "how to bake"},
    {"_id": "q2", "text": "how to sail"},
    {"_id": "q3", "text": "unjudged"},
]
QRELS = ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q2\td2\t2", "q2\td1\t0"]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def beir(folder: Path, corpus: Any = CORPUS, queries: Any = QUERIES, qrels: Any = QRELS, at: str = "qrels.tsv") -> str:
    (folder / at).parent.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text(lines(corpus), encoding="utf-8")
    (folder / "queries.jsonl").write_text(lines(queries), encoding="utf-8")
    (folder / at).write_text("".join(f"{row}\n" for row in qrels), encoding="utf-8")
    return str(folder)


def read(path: str, **changes: Any) -> EvalSet:
    (found,) = read_own({"mine": OwnSet(path=path, **changes)})
    return found


@pytest.mark.parametrize("at", ["qrels.tsv", "qrels/test.tsv"])
def test_a_folder_in_beir_form_is_a_retrieval_set_of_the_judged_queries(tmp_path: Path, at: str) -> None:
    found = read(beir(tmp_path / "set", at=at), instruction="Find it", document_instruction="A note")
    assert (found.split, found.name, found.type, found.main_score) == ("test", "mine", "Retrieval", "ndcg_at_10")
    assert (found.instruction, found.document_instruction) == ("Find it", "A note")
    assert found.corpus == {"d1": "Bread Knead the dough.", "d2": "Set the sail."}
    assert set(found.queries) == {"q1", "q2"} and found.qrels == {"q1": {"d1": 1}, "q2": {"d2": 2}}


def test_judgements_may_lack_their_head_or_be_trecs(tmp_path: Path) -> None:
    plain, trec = QRELS[1:], ["q1\t0\td1\t1", "q2\t0\td2\t2"]
    assert read(beir(tmp_path / "a", qrels=plain)).qrels == read(beir(tmp_path / "b", qrels=trec)).qrels


def test_a_file_of_pairs_is_a_set_whose_corpus_is_its_positives(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = [{"q": "bake", "p": "Knead."}, {"q": "sail", "p": ["Hoist.", "Knead."]}, {"q": "bake", "p": "Whisk."}]
    file.write_text(lines(rows), encoding="utf-8")
    found = read(str(file), query="q", positive="p")
    assert sorted(found.corpus.values()) == ["Hoist.", "Knead.", "Whisk."] and len(found.queries) == 2
    named = {found.queries[q]: {found.corpus[d] for d in rows} for q, rows in found.qrels.items()}
    assert named == {"bake": {"Knead.", "Whisk."}, "sail": {"Hoist.", "Knead."}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"qrels": [*QRELS, "q9\td1\t1"]}, "line 5 names the query 'q9', which queries.jsonl does not hold"),
        ({"qrels": [*QRELS, "q1\td9\t1"]}, "line 5 names the document 'd9', which corpus.jsonl does not hold"),
        ({"qrels": QRELS[:1]}, "no query has a relevant document"),
        ({"qrels": [*QRELS, "q1 d1 1"]}, "line 5 is no judgement"),
        ({"corpus": []}, "corpus.jsonl: is empty"),
        ({"corpus": [*CORPUS, CORPUS[0]]}, "line 3: the id 'd1' stands twice"),
        ({"corpus": [*CORPUS, {"_id": "d3", "text": " "}]}, "line 3: 'd3' has no text"),
        ({"queries": [*QUERIES, {"text": "no id"}]}, "line 4: needs _id and text"),
    ],
)
def test_a_set_that_would_give_a_number_without_a_meaning_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError) as error:
        read(beir(tmp_path / "set", **changes))
    assert says in str(error.value) and "evaluation.own.mine.path" in str(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere", "there is no such folder"), ("nowhere.jsonl", "there is no such file"), ("bad.jsonl", "empty p")],
)
def test_a_set_that_is_not_there_or_not_whole_is_refused(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "bad.jsonl").write_text(lines([{"query": "a", "positive": "b"}, {"query": "a", "positive": ""}]))
    with pytest.raises(UserError) as error:
        read(str(tmp_path / name))
    assert says in str(error.value) and "evaluation.own.mine.path" in str(error.value)


def test_a_changed_set_has_another_digest_and_a_resolved_one_is_refused(tmp_path: Path) -> None:
    path = beir(tmp_path / "set")
    before, own = set_digest(read(path)), OwnSet(path=path)
    resolved = own.model_copy(update={"digest": own_digest("mine", own)})
    read_own({"mine": resolved})
    beir(tmp_path / "set", corpus=[{**CORPUS[0], "text": "Knead it."}, CORPUS[1]])
    assert set_digest(read(path)) != before
    with pytest.raises(UserError, match="changed since the run began"):
        read_own({"mine": resolved})


def test_the_digest_covers_all_that_decides_a_score(
    tmp_path: Path, make_eval_folder: Callable[..., Path], eval_folder: Path
) -> None:
    from nvembed.evaluation.sets import read_sets

    same, other = make_eval_folder(tmp_path / "same"), make_eval_folder(tmp_path / "other", seed=1)
    digests = [[set_digest(one) for one in read_sets(root, ["dev", "test"])] for root in (eval_folder, same, other)]
    assert digests[0] == digests[1] and not set(digests[0]) & set(digests[2]) and len(set(digests[0])) == 6
