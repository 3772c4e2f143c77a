"""AIR-Bench on small files in the hub's layout: dev scored here, test rankings in the form that is handed in."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nvembed.core.errors import UserError
from nvembed.evaluation.airbench import chosen_sets, plan_air_bench
from nvembed.evaluation.measuring import Reader
from nvembed.evaluation.results import read_results
from nvembed.evaluation.running import evaluate_with
from nvembed.evaluation.shards import whole_folders
from nvembed.evaluation.wrapper import MTEBEncoder
from nvembed.recipe import AirBench, Evaluation

Encode = Callable[..., np.ndarray]
WORDS = [
    "mast",
    "anchor",
    "sail",
    "hull",
    "keel",
    "rudder",
    "harbour",
    "tide",
    "knot",
    "deck",
    "pawn",
    "bishop",
    "rook",
]


def write(mirror: Path, repo: str, version: str, split: str, **columns: list[Any]) -> None:
    folder = mirror / "AIR-Bench" / repo / f"AIR-Bench_{version}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`law` of 24.05 (dev and test share a corpus), two long documents (one dev, one test), and `law` of 24.04."""
    root = tmp_path_factory.mktemp("mirror")
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(WORDS, 6, replace=False)) + f" no{row}" for row in range(30)]
    ids = [f"doc-{row}" for row in range(30)]
    for version, splits in (("24.05", {"_dev": range(8), "_test": range(8, 16)}), ("24.04", {"": range(16)})):
        write(root, "qa_law_en", version, "corpus_default", id=ids, text=texts)
        for ending, rows in splits.items():
            asked = [" ".join(texts[row].split()[:4]) for row in rows]
            write(root, "qa_law_en", version, f"queries_default{ending}", id=[f"q{row}" for row in rows], text=asked)
    judged = {"qid": [f"q{row}" for row in range(8)], "docid": ids[:8], "relevance": [1] * 8}
    write(root, "qrels-qa_law_en-dev", "24.05", "qrels_default_dev", **judged)
    for name, split in (("lex_files_300K_400K", "dev"), ("lex_files_400K_500K", "test")):
        write(root, "long-doc_law_en", "24.05", f"corpus_{name}", id=ids, text=texts)
        write(root, "long-doc_law_en", "24.05", f"queries_{name}_{split}", id=["q0", "q1"], text=texts[:2])
    judged = {"qid": ["q0", "q1"], "docid": ids[:2], "relevance": [1, 1]}
    write(root, "qrels-long-doc_law_en-dev", "24.05", "qrels_lex_files_300K_400K_dev", **judged)
    return root


def section(mirror: Path, **changes: Any) -> AirBench:
    return AirBench(**{"domains": ["law"], "splits": ["dev", "test"], "mirror": str(mirror), **changes})


@pytest.fixture
def measure(
    encode_words: Encode, retrieval_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))

    def run(air: AirBench, out: str = "out", share: tuple[int, int] = (1, 1), name: str = "stage2") -> Path:
        evaluation = Evaluation(splits=["test"], air_bench=air, shards=share[1])

        def read() -> tuple[Any, dict[str, Any]]:
            return MTEBEncoder(encode_words, name="words"), {"model": "words"}

        evaluate_with(
            [Reader("trained", read)], name, evaluation, retrieval_alone, tmp_path / out, inputs={}, share=share
        )
        return tmp_path / out

    return run


def entries(zipped: Path) -> dict[str, Any]:
    with zipfile.ZipFile(zipped) as packed:
        return {name: json.loads(packed.read(name)) for name in packed.namelist()}


def test_dev_is_scored_as_an_ordinary_task(mirror: Path, measure: Callable[..., Path], encode_words: Encode) -> None:
    results = read_results(measure(section(mirror, splits=["dev"])))
    assert not results.errors
    row = results.tasks["test", "AIR-Bench_24.05.qa.law.en"]
    assert (row["hf_split"], row["group"], row["metric"]) == ("dev", "air-bench", "ndcg_at_10")
    corpus = pq.read_table(next(mirror.glob("AIR-Bench/qa_law_en/AIR-Bench_24.05/corpus_default*")))["text"].to_pylist()
    queries = pq.read_table(next(mirror.glob("AIR-Bench/qa_law_en/AIR-Bench_24.05/queries_default_dev*")))
    told = section(mirror).instruction
    scores = encode_words(queries["text"].to_pylist(), told) @ encode_words(corpus).T
    places = [int((row > row[at]).sum()) for at, row in enumerate(scores)]
    gains = [1 / np.log2(place + 2) if place < 10 else 0 for place in places]
    assert row["score"] == pytest.approx(np.mean(gains), abs=1e-4)
    assert ("test", "AIR-Bench_24.05.long-doc.law.en.lex_files_300K-400K") in results.tasks


def test_test_rankings_are_handed_in_as_the_maintainers_take_them(
    mirror: Path, measure: Callable[..., Path], encode_words: Encode
) -> None:
    air = section(mirror, versions=["24.05"], task_types=["qa"])
    out = measure(air)
    found = entries(out / "AIR-Bench_24.05" / "nvembed-stage2_NoReranker.zip")
    (place, content), *others = found.items()
    assert not others and place == "qa/law/en_default_test.json"
    rankings = content.pop("search_results")
    assert content == {
        "model_name": "nvembed-stage2",
        "reranker_name": "NoReranker",
        "benchmark_version": "AIR-Bench_24.05",
        "task_type": "qa",
        "domain": "law",
        "language": "en",
        "dataset_name": "default",
        "split": "test",
    }
    assert set(rankings) == {f"q{row}" for row in range(8, 16)}
    assert all(
        len(hits) == 30 and list(hits.values()) == sorted(hits.values(), reverse=True) for hits in rankings.values()
    )
    corpus = pq.read_table(next(mirror.glob("AIR-Bench/qa_law_en/AIR-Bench_24.05/corpus_default*")))["text"].to_pylist()
    query = pq.read_table(next(mirror.glob("AIR-Bench/qa_law_en/AIR-Bench_24.05/queries_default_test*")))["text"][0]
    best = int(np.argmax(encode_words([query.as_py()], air.instruction) @ encode_words(corpus).T))
    assert next(iter(rankings["q8"])) == f"doc-{best}"
    assert not list(measure(air, "base", name="base").rglob("*.zip")), "what was not trained is not handed in"


def test_2404_has_test_alone_and_its_splits_have_no_ending(mirror: Path, measure: Callable[..., Path]) -> None:
    air = section(mirror, versions=["24.04"], task_types=["qa"])
    assert plan_air_bench(air) == []
    found = entries(measure(air) / "AIR-Bench_24.04" / "nvembed-stage2_NoReranker.zip")
    assert len(found["qa/law/en_default_test.json"]["search_results"]) == 16


def test_shards_hand_in_one_zip_and_what_cannot_be_had_is_an_error(
    mirror: Path, measure: Callable[..., Path], tmp_path: Path
) -> None:
    air = section(mirror)
    whole = read_results(measure(air, "whole"))
    missing = {name for (split, name) in whole.errors if split == "submission"}
    assert missing == {f"AIR-Bench_24.05.long-doc.law.en.lex_files_{name}" for name in ("500K-600K", "600K-700K")}
    assert all("holds no corpus_lex_files" in said for said in whole.errors.values())
    (joined,) = whole_folders([measure(air, f"share{number}", (number, 2)) for number in (1, 2)])
    name = "AIR-Bench_24.05/nvembed-stage2_NoReranker.zip"
    assert (joined / name).read_bytes() == (whole.folder / name).read_bytes()
    assert set(entries(joined / name)) == {
        "qa/law/en_default_test.json",
        "long-doc/law/en_lex_files_400K-500K_test.json",
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"domains": ["laws"]}, "'laws' is none of arxiv, book"),
        ({"languages": ["eng"]}, "evaluation.air_bench.languages: 'eng' is none of"),
        ({"versions": ["24.04"], "splits": ["dev"]}, "24.04 has test alone"),
    ],
)
def test_what_the_benchmark_does_not_have_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        chosen_sets(section(tmp_path, **changes))
    assert says in str(error.value)


def test_the_lists_are_the_benchmarks_own() -> None:
    everything = AirBench(versions=["24.04", "24.05"], languages=[], splits=["dev", "test"])
    counts = {(one.version, one.task_type): 0 for one in chosen_sets(everything)}
    for one in chosen_sets(everything):
        counts[one.version, one.task_type] += 1
    assert counts == {("24.04", "qa"): 13, ("24.04", "long-doc"): 15, ("24.05", "qa"): 54, ("24.05", "long-doc"): 15}
    assert len(plan_air_bench(everything.model_copy(update={"versions": ["24.05"]}))) == 54 + 4
