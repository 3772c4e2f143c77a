"""A small eval folder in the contract's layout, and an encoder that needs no model: a bag of hashed words."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nvembed.core.artifacts import write_manifest

TOPICS = {
    "cooking": "oven flour butter sugar bake knead dough whisk simmer roast",
    "sailing": "mast anchor sail hull keel rudder harbour tide knot deck",
    "chess": "pawn bishop rook castle gambit checkmate queen board endgame king",
    "gardens": "soil seed prune hedge compost bloom mulch rake tulip weed",
}
COMMON = "the a of with and then one makes takes very often when it goes well"


def sentences(topic: str, count: int, seed: int) -> list[str]:
    """Distinct texts on a topic: half its own words, half anybody's."""
    rng = np.random.default_rng([seed, zlib.crc32(topic.encode())])
    own, common = TOPICS[topic].split(), COMMON.split()
    return [
        " ".join([*rng.choice(own, 4, replace=False), *rng.choice(common, 5), f"no{seed}x{row}"])
        for row in range(count)
    ]


def write_table(file: Path, **columns: list[Any]) -> None:
    """A Parquet file of the given columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)


def write_task(folder: Path, name: str, kind: str, instruction: str) -> None:
    """A task's head."""
    folder.mkdir(parents=True, exist_ok=True)
    head = {"name": name, "type": kind, "instruction": instruction, "document_instruction": ""}
    metric = {"Retrieval": "ndcg_at_10", "Classification": "accuracy", "Clustering": "v_measure"}[kind]
    (folder / "task.json").write_text(json.dumps({**head, "main_score": metric}), encoding="utf-8")


def write_split(root: Path, split: str, seed: int) -> None:
    """Three tasks: retrieval (a passage's first words find the passage), classification, clustering."""
    passages = [text for topic in TOPICS for text in sentences(topic, 10, seed)]
    folder = root / split / "retrieval"
    write_task(folder, "retrieval", "Retrieval", "Find the passage that goes on like this")
    write_table(folder / "corpus.parquet", id=[f"d{row}" for row in range(len(passages))], text=passages)
    write_table(
        folder / "queries.parquet",
        id=[f"q{row}" for row in range(len(passages))],
        text=[" ".join(text.split()[:3]) for text in passages],
    )
    write_table(
        folder / "qrels.parquet",
        query_id=[f"q{row}" for row in range(len(passages))],
        corpus_id=[f"d{row}" for row in range(len(passages))],
        score=[1] * len(passages),
    )
    labelled = {
        part: [(text, topic) for topic in TOPICS for text in sentences(topic, 12, seed + add)]
        for part, add in (("train", 100), ("test", 200))
    }
    for name, kind, parts in (
        ("classification", "Classification", ("train", "test")),
        ("clustering", "Clustering", ("test",)),
    ):
        write_task(root / split / name, name, kind, "Say what the text is about")
        for part in parts:
            texts, labels = zip(*labelled[part], strict=True)
            write_table(root / split / name / f"{part}.parquet", text=list(texts), label=list(labels))


@pytest.fixture(scope="session")
def make_eval_folder() -> Callable[..., Path]:
    """Writes a whole eval folder; another seed gives other texts."""

    def make(root: Path, seed: int = 0) -> Path:
        for number, split in enumerate(("dev", "test")):
            write_split(root, split, seed + 1000 * number)
        write_manifest(root, kind="eval", section={}, licenses={"made up": "CC0-1.0"})
        return root

    return make


@pytest.fixture(scope="session")
def eval_folder(tmp_path_factory: pytest.TempPathFactory, make_eval_folder: Callable[..., Path]) -> Path:
    """The eval folder that most tests read."""
    return make_eval_folder(tmp_path_factory.mktemp("eval"))


@pytest.fixture(scope="session")
def retrieval_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An eval folder of one set: the others' regressions and clusterings take seconds."""
    root = tmp_path_factory.mktemp("eval")
    write_split(root, "test", 7)
    for name in ("classification", "clustering"):
        shutil.rmtree(root / "test" / name)
    write_manifest(root, kind="eval", section={})
    return root


def hashed_words(texts: list[str], instruction: str = "", *, dim: int = 24, salt: int = 0) -> np.ndarray:
    """Texts as bags of words hashed into `dim` signed places, rows of norm 1; a little noise against ties."""
    vectors = np.zeros((len(texts), dim), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in f"{instruction} {text}".split():
            place = zlib.crc32(f"{salt} {word}".encode())
            vectors[row, place % dim] += 1 if place & 65536 else -1
        vectors[row] += 0.05 * np.random.default_rng(zlib.crc32(text.encode())).standard_normal(dim)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


@pytest.fixture(scope="session")
def encode_words() -> Callable[..., np.ndarray]:
    """The bag-of-words encoder."""
    return hashed_words
