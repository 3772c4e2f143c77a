"""Synthetic data beside a file's own, or alone: nothing leaks either way, and what is synthetic stays named."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from synthetic_documents import synthetic_folders

from nvembed.core.artifacts import read_manifest
from nvembed.data import prepare, read_corpus, read_examples
from nvembed.data.evalsets import read_retrieval
from nvembed.recipe import Data
from nvembed.synthesis import RETRIEVAL as NAME

WORDS = [a + b + c for a in "bdfgk" for b in "aeiou" for c in ("lor", "mar", "nis")]


def text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=words))


@pytest.fixture
def data(tmp_path: Path) -> Data:
    draw = random.Random(4)
    rows = [{"query": text(draw, 9), "positive": text(draw, 30)} for _ in range(200)]
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return Data(path=str(file), min_test_queries=20)


def made_up(seed: int, number: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    return [(text(draw, 9), text(draw, 30)) for _ in range(number)]


def test_synthetic_examples_and_sets_join_the_own_ones(data: Data, tmp_path: Path) -> None:
    pairs, held_out = made_up(1, 12), made_up(2, 5)
    made = synthetic_folders(tmp_path / "made", pairs, held_out)
    prepare(data, tmp_path / "own", tmp_path / "own-eval")
    prepare(data, tmp_path / "out", tmp_path / "eval", synthetic=made)

    own, manifest = read_examples(tmp_path / "own"), read_manifest(tmp_path / "out", kind="dataset", verify=True)
    both = read_examples(tmp_path / "out")
    assert both[: len(own)] == own
    assert [(one.query, one.positive) for one in both[len(own) :]] == pairs
    assert set(read_corpus(tmp_path / "out").values()) == {
        *read_corpus(tmp_path / "own").values(),
        *(positive for _, positive in pairs),
    }
    assert manifest.counts["train_examples"] == len(both) and manifest.counts["train_synthetic"] == 12
    assert manifest.licenses == {"own.jsonl": "unspecified", "synthetic": "cc0-1.0"}
    assert manifest.headline["data.train_examples"] == len(both)
    assert {path.parent.name for path in (tmp_path / "eval").glob("test/*/task.json")} == {"retrieval", NAME}
    assert read_manifest(tmp_path / "eval", kind="eval", verify=True)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing is left lying about"


def test_what_copies_a_held_out_text_is_left_out_on_either_side(data: Data, tmp_path: Path) -> None:
    prepare(data, tmp_path / "own", tmp_path / "own-eval")
    test = read_retrieval(tmp_path / "own-eval" / "test" / "retrieval")
    trained = read_examples(tmp_path / "own")[0]
    leaking = (next(iter(test["queries"].values())), text(random.Random(8), 30))
    copying = (text(random.Random(9), 9), f"{next(iter(test['corpus'].values()))} more")
    sound, held_out = made_up(1, 3), [*made_up(2, 4), (text(random.Random(7), 9), f"{trained.positive} more")]
    made = synthetic_folders(tmp_path / "made", [*sound, leaking, copying], held_out)
    prepare(data, tmp_path / "out", tmp_path / "eval", synthetic=made)

    joined = [example for example in read_examples(tmp_path / "out") if example.source == "synthetic"]
    assert [(one.query, one.positive) for one in joined] == sound
    assert copying[1] not in read_corpus(tmp_path / "out").values()
    kept = read_retrieval(tmp_path / "eval" / "test" / NAME)
    assert sorted(kept["queries"].values()) == sorted(query for query, _ in held_out[:4])
    left_out = read_manifest(tmp_path / "out").extra["synthesis"]["left_out"]
    assert left_out == {
        "synthetic example that nearly copies a held-out text": 2,
        "synthetic passage that nearly copies a held-out text": 1,
        "synthetic held-out query that nearly copies a training text": 1,
    }


def test_alone_they_are_handed_on_under_the_data_section(data: Data, tmp_path: Path) -> None:
    made = synthetic_folders(tmp_path / "made", made_up(1, 6), made_up(2, 4), alone=True)
    prepare(data, tmp_path / "out", tmp_path / "eval", synthetic=made)

    manifest = read_manifest(tmp_path / "out", kind="dataset", verify=True)
    assert manifest.content == read_manifest(made[0]).content
    assert manifest.section["instructions"] == dict(data.instructions)
    assert manifest.counts["train_examples"] == 6
    assert read_manifest(tmp_path / "eval", kind="eval", verify=True).content == read_manifest(made[1]).content


def test_off_they_change_nothing(data: Data, tmp_path: Path) -> None:
    made = synthetic_folders(tmp_path / "made", made_up(1, 6), made_up(2, 4), enabled=False)
    prepare(data, tmp_path / "own", tmp_path / "own-eval")
    prepare(data, tmp_path / "out", tmp_path / "eval", synthetic=made)

    for one, other in (("own", "out"), ("own-eval", "eval")):
        assert read_manifest(tmp_path / one).content == read_manifest(tmp_path / other).content
