"""Python's documentation as a dataset: nothing leaks, the folders have the contract's shape, bytes repeat."""

from __future__ import annotations

import json
import random
import sysconfig
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nvembed.core.artifacts import read_manifest
from nvembed.core.digests import digest_folder
from nvembed.core.errors import UserError
from nvembed.data import check_source, prepare, read_corpus, read_examples
from nvembed.data.example import Pair
from nvembed.data.modules import split_modules
from nvembed.data.near_copies import jaccard, ngrams
from nvembed.data.pydocs import read_python_docs, split_docstring
from nvembed.recipe import Data, load_recipe

LAPTOP = load_recipe("laptop").data
SUMMARY = "Return the sum of it all."
BODY = "The values are added one by one."
TINY = load_recipe("tiny").data


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("laptop")
    prepare(LAPTOP, out / "dataset", out / "eval")
    return out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    prepare(TINY, out / "dataset", out / "eval")
    return out


def table(file: Path) -> list[dict]:
    return pq.read_table(file).to_pylist()


def texts(file: Path) -> list[str]:
    return [row["text"] for row in table(file)]


def training_texts(out: Path) -> set[str]:
    examples = read_examples(out / "dataset")
    return {text for e in examples for text in (e.query, e.positive, *e.negatives)} | set(
        read_corpus(out / "dataset").values()
    )


def test_a_library_read_again_gives_the_same_pairs_in_the_same_order() -> None:
    folder = Path(sysconfig.get_path("stdlib")) / "email"
    first, again = (read_python_docs.__wrapped__(folder) for _ in range(2))
    assert first == again
    assert len(first.pairs) > 50


def test_python_gives_well_over_two_thousand_different_pairs() -> None:
    first = read_python_docs()
    assert len(first.pairs) > 2000
    assert len({(pair.query, pair.positive) for pair in first.pairs}) == len(first.pairs)
    assert check_source(LAPTOP).digest == first.digest


def test_the_laptop_test_set_has_400_queries_and_its_modules_passages_only(laptop: Path) -> None:
    folder = laptop / "eval" / "test" / "retrieval"
    queries = set(texts(folder / "queries.parquet"))
    passages = set(texts(folder / "corpus.parquet"))
    assert len(queries) >= 400
    assert len(texts(laptop / "eval" / "dev" / "retrieval" / "queries.parquet")) >= 250
    docs = read_python_docs().pairs
    modules = {pair.label for pair in docs if (pair.positive in passages) and (pair.query in queries)}
    train = training_texts(laptop)
    modules = {name for name in modules if not any(p.positive in train for p in docs if p.label == name)}
    assert {pair.positive for pair in docs if pair.label in modules} == passages


@pytest.mark.parametrize("which", ["laptop", "tiny"])
def test_no_training_text_nearly_copies_a_held_out_one(which: str, request: pytest.FixtureRequest) -> None:
    out = request.getfixturevalue(which)
    train = [ngrams(text) for text in training_texts(out)]
    by_gram: dict[int, list[frozenset[int]]] = {}
    for grams in train:
        for gram in grams:
            by_gram.setdefault(gram, []).append(grams)
    held = [
        text
        for file in (out / "eval").rglob("*.parquet")
        if file.stem in ("corpus", "queries", "test")
        for text in texts(file)
    ]
    assert len(held) > 50
    for text in held:
        grams = ngrams(text)
        near = max((jaccard(grams, other) for gram in grams for other in by_gram.get(gram, ())), default=0.0)
        assert near < LAPTOP.near_copy_threshold, text


@pytest.mark.parametrize("which", ["laptop", "tiny"])
def test_dev_and_test_share_no_text(which: str, request: pytest.FixtureRequest) -> None:
    out = request.getfixturevalue(which)
    held = {
        split: {
            text
            for file in (out / "eval" / split).rglob("*.parquet")
            if file.stem in ("corpus", "queries", "test")
            for text in texts(file)
        }
        for split in ("dev", "test")
    }
    assert held["dev"] and held["test"]
    assert held["dev"].isdisjoint(held["test"])


@pytest.mark.parametrize("which", ["laptop", "tiny"])
def test_every_set_has_the_shape_of_the_contract(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which) / "eval"
    for split in ("dev", "test"):
        assert sorted(path.name for path in (folder / split).iterdir()) == ["classification", "clustering", "retrieval"]
        for path in (folder / split).iterdir():
            task = json.loads((path / "task.json").read_text())
            assert set(task) == {"name", "type", "instruction", "document_instruction", "main_score"}
            assert task["type"].lower() == path.name
            assert (task["document_instruction"] == "") == (path.name == "retrieval")
        qrels = table(folder / split / "retrieval" / "qrels.parquet")
        queries = {row["id"] for row in table(folder / split / "retrieval" / "queries.parquet")}
        corpus = {row["id"] for row in table(folder / split / "retrieval" / "corpus.parquet")}
        assert {row["query_id"] for row in qrels} == queries
        assert {row["corpus_id"] for row in qrels} == corpus
        few_shot = table(folder / split / "classification" / "train.parquet")
        test = table(folder / split / "classification" / "test.parquet")
        assert {row["label"] for row in test} <= {row["label"] for row in few_shot}
        assert {row["text"] for row in test}.isdisjoint(row["text"] for row in few_shot)
        assert len({row["label"] for row in table(folder / split / "clustering" / "test.parquet")}) > 1
    assert read_manifest(folder, kind="eval", verify=True).counts["test_retrieval_queries"] == len(queries)


def test_examples_are_labelled_by_examples_with_the_instruction_on_both_sides(laptop: Path) -> None:
    examples = read_examples(laptop / "dataset")
    assert len({example.id for example in examples}) == len(examples)
    labels: dict[str, set[str]] = {}
    for pair in read_python_docs().pairs:
        labels.setdefault(pair.positive, set()).add(pair.label)
    for example in examples:
        if example.task_type == "retrieval":
            assert example.negatives == () and example.document_instruction == ""
        else:
            assert example.query_instruction == example.document_instruction == LAPTOP.instructions[example.task_type]
            assert len(example.negatives) == LAPTOP.example_negatives
            assert example.query != example.positive
        if example.task_type == "classification":
            (own,) = labels[example.query] & labels[example.positive]
            assert not any(own in labels[text] for text in example.negatives)
    assert {e.positive for e in examples if e.task_type == "retrieval"} == set(read_corpus(laptop / "dataset").values())


def test_the_same_source_and_seed_give_the_same_bytes_and_another_seed_others(tiny: Path, tmp_path: Path) -> None:
    prepare(TINY, tmp_path / "again", tmp_path / "eval")
    assert digest_folder(tmp_path / "again") == digest_folder(tiny / "dataset")
    assert digest_folder(tmp_path / "eval") == digest_folder(tiny / "eval")
    prepare(TINY.model_copy(update={"seed": 5}), tmp_path / "other", tmp_path / "other-eval")
    assert digest_folder(tmp_path / "other-eval") != digest_folder(tiny / "eval")


def test_the_manifest_says_what_was_dropped_by_which_rule(laptop: Path) -> None:
    manifest = read_manifest(laptop / "dataset", kind="dataset", verify=True)
    assert manifest.licenses == {"python_docs": "PSF-2.0"}
    assert manifest.extra["dropped"]["split"]["train: near copy of a held-out document"] > 0
    assert manifest.headline["data.test_queries"] >= 400


def test_content_other_than_the_recipe_was_resolved_with_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    changed = TINY.model_copy(update={"digest": "0" * 64})
    with pytest.raises(UserError, match="changed since"):
        prepare(changed, tmp_path / "dataset", tmp_path / "eval")
    assert list(tmp_path.iterdir()) == []
    assert check_source(TINY.model_copy(update={"digest": read_python_docs().digest})).rows > 2000


def test_more_held_out_than_there_is_names_the_keys_to_change(tmp_path: Path) -> None:
    data = Data(limit=100, min_test_queries=60)
    with pytest.raises(UserError, match=r"data\.min_test_queries"):
        check_source(data)
    with pytest.raises(UserError, match=r"data\.min_test_queries"):
        prepare(data, tmp_path / "dataset", tmp_path / "eval")


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (f"{SUMMARY}\n\nThe values are\nadded one by   one.", BODY),
        (f"f(x, y) -> z\n\n{SUMMARY}\n\n{BODY}", BODY),
        (f"{SUMMARY}\n\n{BODY}\n\n>>> f(1)\n1\n\n", BODY),
    ],
)
def test_a_docstring_is_its_summary_and_the_rest(docstring: str, expected: str) -> None:
    assert split_docstring(docstring) == ("Return the sum of it all.", expected)


@pytest.mark.parametrize(
    ("docstring", "rule"),
    [
        ("Return the sum of it all.", "one paragraph"),
        ("Return the sum of it all.\n\n>>> f(1)\n1", "one paragraph"),
        ("Sum.\n\nThe values are added one by one.", "query too short"),
        ("Return the sum of it all.\n\nAdds them.", "passage too short"),
        ("Return the sum of it all.\n\n" + "word " * 500, "passage too long"),
        ("Return the sum of it all.\n\n0x00 0x01 0x02 0x03 0x04 0x05 0x06 0x07", "passage not prose"),
    ],
)
def test_what_is_no_prose_is_dropped_by_a_named_rule(docstring: str, rule: str) -> None:
    assert split_docstring(docstring) == rule


def test_a_class_whose_training_documents_all_copy_held_out_ones_is_not_measured() -> None:
    words = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(400)]
    generator = random.Random(0)
    pairs = [
        Pair(" ".join(generator.choices(words, k=9)), " ".join(generator.choices(words, k=40)), label=f"module{m:02d}")
        for m in range(40)
        for _ in range(12)
    ]
    pairs += [replace(pair, query=f"{pair.query} {n}", label="copies") for n in range(30) for pair in pairs[:1]]
    split = split_modules([pair for pair in pairs if pair.label != "module00"], Data(min_class_size=8))
    assert split.dropped["held out: class without training documents"] > 0
    assert "copies" not in {pair.label for pair in (*split.dev_documents, *split.test_documents)}
    assert len(split.classes()) > 10


def test_planted_near_copies_are_kept_out_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "lib"
    library.mkdir()
    words = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(400)]
    generator = random.Random(0)
    planted = " ".join(generator.choices(words, k=40))
    for module in range(40):
        functions = []
        for number in range(12):
            body = " ".join(generator.choices(words, k=40))
            if number == 0:  # every module has one copy, with one word of forty changed
                body = planted.replace(" ", f" {words[module]} ", 1)
            summary = " ".join(generator.choices(words, k=9))
            functions.append(f'def f{number}():\n    """{summary}\n\n    {body}\n    """\n')
        (library / f"module{module:02d}.py").write_text("\n".join(functions))
    monkeypatch.setattr("nvembed.data.preparation.read_python_docs", lambda: read_python_docs(library))
    prepare(Data(min_class_size=8), tmp_path / "dataset", tmp_path / "eval")
    held = set(texts(tmp_path / "eval" / "test" / "retrieval" / "corpus.parquet"))
    grams = ngrams(planted)
    assert any(jaccard(grams, ngrams(text)) > 0.7 for text in held)
    assert not any(jaccard(grams, ngrams(text)) > 0.7 for text in training_texts(tmp_path))
