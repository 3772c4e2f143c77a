"""A user's own file, prepared: what hangs together stays together, nothing held out is trained on, bytes repeat."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nvembed.core.artifacts import read_manifest
from nvembed.core.digests import digest_folder
from nvembed.core.errors import UserError
from nvembed.data import check_source, prepare, read_corpus, read_examples
from nvembed.data.near_copies import NearCopies, jaccard, ngrams
from nvembed.recipe import Data

RANDOM = random.Random(3)
WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def text(words: int = 30) -> str:
    return " ".join(RANDOM.choices(WORDS, k=words))


def planted_rows() -> list[dict]:
    """300 pairs: 60 queries share 20 passages, 40 rows are near copies of each other by twos, the rest are alone."""
    rows = [{"query": text(8), "positive": text()} for _ in range(200)]
    shared = [text() for _ in range(20)]
    rows += [{"query": text(8), "positive": shared[i % 20].upper() if i % 3 else shared[i % 20]} for i in range(60)]
    for _ in range(20):
        original = text(40)
        copy = original.replace(" ", " changed ", 1)
        rows += [{"query": text(8), "positive": original}, {"query": text(8), "positive": copy}]
    RANDOM.shuffle(rows)
    for row in rows:
        row["negatives"] = [RANDOM.choice(rows)["positive"], text()]
    return rows


ROWS = planted_rows()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data]:
    out = tmp_path_factory.mktemp("file")
    (out / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = Data(path=str(out / "mine.jsonl"), license="CC0-1.0")
    data = data.model_copy(update={"digest": check_source(data).digest})
    prepare(data, out / "dataset", out / "eval")
    return out, data


def texts(file: Path) -> list[str]:
    return [row["text"] for row in pq.read_table(file).to_pylist()]


def held_out(out: Path, split: str) -> set[str]:
    folder = out / "eval" / split / "retrieval"
    return {*texts(folder / "queries.parquet"), *texts(folder / "corpus.parquet")}


def test_the_planted_rows_do_have_near_copies() -> None:
    grams = [ngrams(row["positive"]) for row in ROWS]
    near = sum(0.7 <= jaccard(a, b) < 1 for n, a in enumerate(grams) for b in grams[:n])
    assert near == 20


def test_it_holds_out_at_least_what_the_recipe_asks_for(prepared: tuple[Path, Data]) -> None:
    counts = read_manifest(prepared[0] / "dataset", kind="dataset", verify=True).counts
    assert counts["test_retrieval_queries"] >= 45
    assert counts["dev_retrieval_queries"] >= 30
    total = sum(counts[name] for name in ("test_retrieval_queries", "dev_retrieval_queries", "train_retrieval"))
    assert total == len(ROWS)


def test_no_part_has_a_text_of_another_nor_a_near_copy_of_one(prepared: tuple[Path, Data]) -> None:
    examples = read_examples(prepared[0] / "dataset")
    train = {text for e in examples for text in (e.query, e.positive, *e.negatives)}
    train |= set(read_corpus(prepared[0] / "dataset").values())
    parts = [train, held_out(prepared[0], "dev"), held_out(prepared[0], "test")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        grams = [ngrams(text) for text in parts[one]]
        for text_ in parts[other]:
            assert max(jaccard(ngrams(text_), gram) for gram in grams) < 0.7


def test_negatives_that_are_held_out_are_dropped_and_the_others_kept(prepared: tuple[Path, Data]) -> None:
    examples = read_examples(prepared[0] / "dataset")
    assert {len(e.negatives) for e in examples} >= {1, 2}
    dropped = read_manifest(prepared[0] / "dataset").extra["dropped"]["split"]
    assert dropped["train: negative that nearly copies a held-out text"] > 10


def test_the_instructions_are_not_those_of_pythons_documentation(prepared: tuple[Path, Data]) -> None:
    task = json.loads((prepared[0] / "eval" / "test" / "retrieval" / "task.json").read_text())
    assert "Python" not in task["instruction"]
    assert {e.query_instruction for e in read_examples(prepared[0] / "dataset")} == {task["instruction"]}


def test_the_same_file_gives_the_same_bytes_wherever_it_lies(prepared: tuple[Path, Data], tmp_path: Path) -> None:
    out, data = prepared
    (tmp_path / "mine.jsonl").write_bytes((out / "mine.jsonl").read_bytes())
    prepare(data.model_copy(update={"path": str(tmp_path / "mine.jsonl")}), tmp_path / "dataset", tmp_path / "eval")
    assert digest_folder(tmp_path / "dataset") == digest_folder(out / "dataset")
    assert digest_folder(tmp_path / "eval") == digest_folder(out / "eval")


def test_it_says_what_it_held_out(prepared: tuple[Path, Data], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVEMBED_PROGRESS", str(tmp_path / "progress"))
    prepare(prepared[1], tmp_path / "dataset", tmp_path / "eval")
    events = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    (said,) = [event["text"] for event in events if event["event"] == "note"]
    counts = read_manifest(tmp_path / "dataset").counts
    assert f"held out {counts['test_retrieval_queries']} queries for test" in said
    assert f"{counts['dev_retrieval_queries']} for dev" in said


def test_it_warns_of_a_test_corpus_too_small_to_tell_models_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVEMBED_PROGRESS", str(tmp_path / "progress"))
    passages = [text() for _ in range(25)]
    rows = [{"query": text(8), "positive": passages[i % 25]} for i in range(200)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(Data(path=str(tmp_path / "mine.jsonl")), tmp_path / "dataset", tmp_path / "eval")
    count = read_manifest(tmp_path / "dataset").counts["test_retrieval_passages"]
    assert f"only {count} passages" in (tmp_path / "progress").read_text()


def test_a_limit_takes_that_many_pairs(prepared: tuple[Path, Data], tmp_path: Path) -> None:
    prepare(prepared[1].model_copy(update={"limit": 120}), tmp_path / "dataset", tmp_path / "eval")
    counts = read_manifest(tmp_path / "dataset").counts
    measured = counts["test_retrieval_queries"] + counts["dev_retrieval_queries"]
    assert measured + counts["train_retrieval"] == 120


def test_without_dev_there_is_no_dev_folder(prepared: tuple[Path, Data], tmp_path: Path) -> None:
    prepare(prepared[1].model_copy(update={"dev_fraction": 0.0}), tmp_path / "dataset", tmp_path / "eval")
    assert [path.name for path in sorted((tmp_path / "eval").iterdir()) if path.is_dir()] == ["test"]


def test_examples_of_similarity_tasks_are_trained_on_and_never_measured(tmp_path: Path) -> None:
    rows = [{"query": text(8), "positive": text(), "task": "faq"} for _ in range(120)]
    rows += [{"query": text(8), "positive": text(), "task": "sts"} for _ in range(30)]
    rows += [{"query": text(8), "positive": row["positive"], "task": "sts"} for row in rows[:120]]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(Data(path=str(tmp_path / "mine.jsonl")), tmp_path / "dataset", tmp_path / "eval")
    examples = read_examples(tmp_path / "dataset")
    similar = [e for e in examples if e.task_type == "sts"]
    assert all(e.document_instruction == e.query_instruction != "" for e in similar)
    assert {e.task for e in examples} == {"faq", "sts"}
    manifest = read_manifest(tmp_path / "dataset")
    held = manifest.counts["test_retrieval_queries"] + manifest.counts["dev_retrieval_queries"]
    assert held + len(similar) == 150, "what hangs together with a held-out pair is dropped"
    assert set(texts(tmp_path / "eval" / "test" / "retrieval" / "queries.parquet")) <= {r["query"] for r in rows[:120]}


def test_near_copies_alone_can_make_a_file_hang_together(tmp_path: Path) -> None:
    base = text(60)
    rows = [{"query": text(8), "positive": f"{base} {i}"} for i in range(200)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data(path=str(tmp_path / "mine.jsonl"))
    check_source(data)
    with pytest.raises(UserError, match="200 of 200 queries hang together"):
        prepare(data, tmp_path / "dataset", tmp_path / "eval")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.jsonl"]


def test_the_near_copy_index_finds_what_comparing_all_finds() -> None:
    generator = random.Random(5)
    base = [generator.choices(WORDS, k=40) for _ in range(40)]
    variants = []
    for words in base:
        for changes in range(6):
            copy = list(words)
            for place in generator.sample(range(40), changes):
                copy[place] = "changed"
            variants.append(" ".join(copy))
    index: NearCopies[int] = NearCopies(0.6)
    for number, variant in enumerate(variants):
        index.add(number, variant)
    found = {(a, b) for a, variant in enumerate(variants) for b in index.copies_of(variant)}
    grams = [ngrams(variant) for variant in variants]
    truth = {(a, b) for a in range(len(grams)) for b in range(len(grams)) if jaccard(grams[a], grams[b]) >= 0.6}
    assert found <= truth
    assert len(found) > 0.995 * len(truth) > len(variants)


def test_short_texts_only_copy_themselves() -> None:
    index: NearCopies[str] = NearCopies(0.7)
    index.add("a", "Open a file.")
    index.add("b", "open a FILE")
    index.add("c", "")
    assert index.copies_of("Open a file") == ["a", "b"]
    assert index.copies_of("Close a file") == []
    assert index.copies_of("?!") == []
