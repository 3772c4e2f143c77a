"""From documents to folders: what is written, held out, told and refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
from chat_server import KEY, MODEL, ChatServer
from synthetic_documents import WORDS, write_documents

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.data import read_corpus, read_examples
from nvembed.data.evalsets import read_retrieval
from nvembed.data.near_copies import jaccard, ngrams
from nvembed.recipe.synthesis import Caps
from nvembed.synthesis import RETRIEVAL, plan, synthesize
from nvembed.synthesis.documents import read_documents
from nvembed.synthesis.held_out import LEFT_OUT, split_passages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synthetic_documents import Make


def of_words(texts: Sequence[str], *, queries: bool) -> np.ndarray:
    """Unit vectors of word counts."""
    vectors = np.array([[text.lower().count(word) for word in WORDS] for text in texts], dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def rows(folder: Path) -> list[dict]:
    return pq.read_table(folder / "synthetic.parquet").to_pylist()


def test_documents_become_examples_and_held_out_sets_that_share_nothing(section: Make, tmp_path: Path) -> None:
    out, eval_out = tmp_path / "out", tmp_path / "eval"
    synthesize(section(quality={"round_trip": {"enabled": True}}), out, eval_out, embed=of_words)

    manifest = read_manifest(out, kind="dataset", verify=True)
    examples, corpus = read_examples(out), read_corpus(out)
    sets = {split: read_retrieval(eval_out / split / RETRIEVAL) for split in ("dev", "test")}
    assert manifest.counts["train_examples"] == len(examples) > 20
    assert {example.positive for example in examples} <= set(corpus.values())
    assert all(example.negatives and example.task_type == "retrieval" for example in examples)
    assert manifest.licenses == {"synthetic": "cc0-1.0"} == dict.fromkeys(["synthetic"], examples[0].license)
    for split, held in sets.items():
        assert len(held["queries"]) >= 2, split
        assert not set(held["corpus"].values()) & set(corpus.values())
        assert not set(held["queries"].values()) & {example.query for example in examples}
    assert not set(sets["dev"]["corpus"]) & set(sets["test"]["corpus"])
    assert "synthetic" in json.loads((eval_out / "dev" / RETRIEVAL / "task.json").read_text(encoding="utf-8"))["name"]
    assert read_manifest(eval_out, kind="eval", verify=True).extra["synthesis"]["alone"]


def test_every_example_keeps_where_it_comes_from_and_its_scores(section: Make, tmp_path: Path) -> None:
    asked = section(quality={"round_trip": {"enabled": True}, "judge": {"enabled": True}})
    synthesize(asked, tmp_path / "out", tmp_path / "eval", embed=of_words)

    kept = {row["id"]: row for row in rows(tmp_path / "out") if row["accepted"] and row["split"] == "train"}
    passages = {passage.id: passage for passage in read_documents(asked).passages}
    for example in read_examples(tmp_path / "out"):
        row = kept[example.id]
        assert row["model"] == MODEL and row["prompt"] and row["seed"] >= 0
        assert passages[row["passage"]].text == example.positive
        assert row["rank"] <= 3 and 0 < row["similarity"] <= 1.0001 and row["judged"] == 5
        assert 0 <= row["leakage"] <= 1


def test_the_same_answers_give_the_same_bytes(section: Make, tmp_path: Path) -> None:
    for name in ("a", "b"):
        synthesize(section(), tmp_path / name, tmp_path / f"eval-{name}")

    for folders in (("a", "b"), ("eval-a", "eval-b")):
        one, other = (read_manifest(tmp_path / name).content for name in folders)
        assert one == other


def test_off_it_writes_a_manifest_alone(section: Make, tmp_path: Path) -> None:
    off = section().model_copy(update={"enabled": False})
    synthesize(off, tmp_path / "out", tmp_path / "eval")

    assert read_manifest(tmp_path / "out", kind="dataset").extra == {"synthesis": {"enabled": False}}
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["manifest.json"]


def test_no_text_of_the_key_reaches_a_folder(section: Make, server: ChatServer, tmp_path: Path) -> None:
    server.always = "echo-key"
    synthesize(section(), tmp_path / "out", tmp_path / "eval")

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert any("[key]" in text for example in read_examples(tmp_path / "out") for text in example.negatives)


def test_queries_in_another_language_are_refused_and_told(section: Make, server: ChatServer, tmp_path: Path) -> None:
    server.faults.extend(["wrong-language"] * 6)
    synthesize(section(quality={"language": True}, queries={"per_passage": 1}), tmp_path / "out", tmp_path / "eval")

    refused = Counter(row["refused"] for row in rows(tmp_path / "out") if not row["accepted"])
    assert refused["another language than asked for"] == 6
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Refused: another language than asked for" in report and "Wie kann ich" in report


def test_the_judge_refuses_and_its_score_stays(section: Make, server: ChatServer, tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "judged")
    file = documents / "document-0.md"
    text = file.read_text(encoding="utf-8").replace(
        "## Part 0\n\n", "## Part 0\n\nBadly put are all of these words here. "
    )
    file.write_text(text, encoding="utf-8")
    asked = section(documents=str(documents), quality={"judge": {"enabled": True}})
    synthesize(asked, tmp_path / "out", tmp_path / "eval")

    low = [row for row in rows(tmp_path / "out") if row["judged"] == 1]
    assert low and {row["refused"] for row in low} == {"judged too low"}
    assert all("badly" in row["query"].lower() for row in low)


def test_tasks_are_thought_up_and_examples_written_for_them(section: Make, server: ChatServer, tmp_path: Path) -> None:
    types = {"short-long": 1, "long-short": 1, "short-short": 1, "long-long": 1, "sts": 1}
    paper = {"enabled": True, "tasks": 20, "tasks_per_request": 5, "examples_per_task": 2, "types": types}
    synthesize(section(from_documents=False, alone=False, paper=paper), tmp_path / "out", tmp_path / "eval")

    examples = read_examples(tmp_path / "out")
    assert Counter(example.task for example in examples) == {f"synthetic-{name}": 8 for name in types}
    assert {example.task_type for example in examples} == {"retrieval", "sts"}
    assert len({example.query_instruction for example in examples}) == 4 * 4 + 1
    assert set(server.asked.values()) == {1}
    assert not list((tmp_path / "eval").glob("*/*"))


def test_the_dry_run_says_what_is_then_asked_and_asks_nothing(
    section: Make, server: ChatServer, tmp_path: Path
) -> None:
    asked = section()
    (part,) = plan(asked)
    assert not server.asked and part.requests == 24 and part.known == 0

    synthesize(asked, tmp_path / "out", tmp_path / "eval")

    assert sum(server.asked.values()) == part.requests
    manifest = read_manifest(tmp_path / "out")
    spent = manifest.headline["data.synthetic_cost"]
    assert part.cost is not None and part.most is not None
    assert 0.3 * part.cost < spent < part.most
    (again,) = plan(asked)
    assert (again.requests, again.known, again.sent, again.cost) == (24, 24, 0, 0)
    assert plan(section(endpoint={"price_in": None}))[0].cost is None


def test_a_model_that_answers_nothing_usable_ends_in_a_report(
    section: Make, server: ChatServer, tmp_path: Path
) -> None:
    server.always = "no-json"
    asked = section(caps={"max_requests": 30})

    with pytest.raises(UserError, match=r"none of 24 requests gave an example .* stopped at its budget") as told:
        synthesize(asked, tmp_path / "out", tmp_path / "eval")

    assert sum(server.asked.values()) == 30
    assert not (tmp_path / "out").exists() and not (tmp_path / "eval").exists()
    report = Path(str(told.value).split("the report is ")[1].split(";")[0])
    assert "I would rather not." in report.read_text(encoding="utf-8")


def test_too_few_held_out_queries_are_refused(section: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"queries for test, 500 are needed"):
        synthesize(section(held_out={"min_queries": 500}), tmp_path / "out", tmp_path / "eval")


def test_documents_that_changed_since_the_recipe_was_resolved_are_refused(section: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"changed since the recipe was resolved"):
        synthesize(section(digest="0" * 64), tmp_path / "out", tmp_path / "eval")


def test_changed_documents_cost_only_what_changed(section: Make, server: ChatServer, tmp_path: Path) -> None:
    synthesize(section(), tmp_path / "out", tmp_path / "eval")
    before = sum(server.asked.values())
    write_documents(tmp_path / "more", documents=1, sections=1)
    (tmp_path / "more" / "document-0.md").rename(tmp_path / "docs" / "new.md")
    text = (tmp_path / "docs" / "new.md").read_text(encoding="utf-8").replace("lor", "xyz")
    (tmp_path / "docs" / "new.md").write_text(text, encoding="utf-8")
    synthesize(section(), tmp_path / "out", tmp_path / "eval")

    assert sum(server.asked.values()) == before + 1


def test_held_out_passages_share_no_words_with_training_ones(section: Make, tmp_path: Path) -> None:
    long = tmp_path / "long"
    long.mkdir()
    whole = write_documents(tmp_path / "source", documents=4, sections=12)
    for file in whole.iterdir():
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        (long / file.name.replace(".md", ".txt")).write_text(" ".join(lines), encoding="utf-8")
    asked = section(documents=str(long), passages={"words": 60, "overlap": 20})
    passages = read_documents(asked).passages
    split = split_passages(passages, asked)

    counts = Counter(split.values())
    assert counts["test"] >= 0.1 * len(passages) and counts["dev"] >= 0.06 * len(passages)
    assert counts["train"] > 0.5 * len(passages) and counts[LEFT_OUT] > 0
    groups = {
        name: [passage.text for passage in passages if split[passage.id] == name] for name in ("train", "dev", "test")
    }
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        likeness = [jaccard(ngrams(a), ngrams(b)) for a in groups[one] for b in groups[other]]
        assert max(likeness) == 0


@pytest.mark.parametrize("name", ["max_requests", "max_tokens", "max_cost"])
def test_a_budget_of_nothing_is_refused_in_the_recipe(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, so nothing could be asked"):
        Caps.model_validate({name: 0})
