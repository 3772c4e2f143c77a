"""A mix through `prepare`: divided and merged to the same bytes, cleaned, held out, told where everything came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_documents import synthetic_folders

from nvembed.core.artifacts import MANIFEST, Manifest, read_manifest
from nvembed.core.errors import UserError
from nvembed.data import check_source, prepare, read_corpus, read_examples, shards
from nvembed.data.evalsets import read_retrieval
from nvembed.data.keys import KeySet
from nvembed.data.shards import Slice, plan_shards, write_shard
from nvembed.data.stages import unseen_sources
from nvembed.data.store import document_id, read_pools
from nvembed.mining import mine
from nvembed.recipe import Data, Mining, Resources, Source
from nvembed.recipe.mining import Teacher

JUDGED = "the quick brown fox jumps over the lazy dog near the old river bank"
TOPICS = ("rivers and lakes", "trains and rails", "bread and butter")


def put(mirror: Path, repo: str, rows: list[dict[str, Any]], split: str = "train", config: str = "default") -> None:
    path = mirror / repo / config / f"{split}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def pairs(name: str, number: int) -> list[dict[str, Any]]:
    return [
        {"query": f"what does {name} say of number {i}", "positive": f"{name} tells a long story of number {i}"}
        for i in range(number)
    ]


def labelled(number: int) -> list[dict[str, Any]]:
    return [{"text": f"a remark on {TOPICS[i % 3]}, the {i}th", "label": i % 3} for i in range(number)]


SOURCES: dict[str, dict[str, Any]] = {
    "plain": {"repo": "o/plain", "license": "mit", "rows": 100, "instruction": "Find the story"},
    "capped": {"repo": "o/capped", "cap": 30, "rows": 60},
    "joined": {"repo": "o/joined", "shape": "beir", "rows": 40, "license": "cc-by-4.0"},
    "topics": {
        "repo": "o/topics",
        "rows": 30,
        "shape": "labelled",
        "label_rule": "example-based",
        "task_type": "clustering",
        "stages": [2],
        "held_out": [{"split": "test"}],
    },
    "kinds": {
        "repo": "o/topics",
        "rows": 30,
        "shape": "labelled",
        "label_rule": "label-text",
        "labels": list(TOPICS),
        "task_type": "classification",
        "stages": [2],
        "held_out": [{"split": "test"}],
    },
}


@pytest.fixture(autouse=True)
def small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(shards, "BLOCK_ROWS", 7)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    hub = tmp_path / "hub"
    repeated = [*pairs("plain", 100), *pairs("plain", 3)]
    repeated[50]["positive"] = f"{JUDGED.upper()}, said the {JUDGED.split()[3]}"
    put(hub, "o/plain", repeated)
    put(hub, "o/capped", pairs("capped", 60))
    found = pairs("joined", 40)
    put(hub, "o/joined", [{"_id": f"q{i}", "text": one["query"]} for i, one in enumerate(found)], "queries", "queries")
    passages = [{"_id": f"d{i}", "title": "", "text": one["positive"]} for i, one in enumerate(found)]
    put(hub, "o/joined", passages, "corpus", "corpus")
    put(hub, "o/joined", [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1.0} for i in range(40)])
    put(hub, "o/topics", labelled(30))
    put(hub, "o/topics", [{"text": "A remark on rivers and lakes: the 3th!"}, {"text": "trains and rails"}], "test")
    (tmp_path / "judged.jsonl").write_text(json.dumps({"text": JUDGED}) + "\n")
    return hub


def mix(mirror: Path, *only: str, **more: Any) -> Data:
    judged = {"files": [str(mirror.parent / "judged.jsonl")]}
    sources = {name: SOURCES[name] for name in only or SOURCES}
    return Data.model_validate(
        {"source": "mix", "sources": sources, "hub_mirror": str(mirror), "decontamination": judged, **more}
    )


def prepared(data: Data, out: Path, **how: Any) -> Manifest:
    prepare(data, out, out.parent / f"{out.name}-eval", **how)
    return read_manifest(out, kind="dataset", verify=True)


def test_the_same_bytes_come_of_one_shard_and_of_seven_made_by_others(mirror: Path, tmp_path: Path) -> None:
    data = mix(mirror, dev_queries=4)
    one = prepared(data, tmp_path / "one")
    plan = plan_shards(data, 7)
    assert len(plan) == 7 and any(part.of > 1 for shard in plan for part in shard)
    for number, shard in enumerate(plan):
        with pytest.MonkeyPatch.context() as patch:  # each on a machine of its own
            patch.setenv("NVEMBED_STATE", str(tmp_path / f"state-{number}"))
            write_shard(data, shard, tmp_path / f"shard-{number}")
    seven = prepared(data, tmp_path / "seven", prepared=[tmp_path / f"shard-{number}" for number in range(7)])

    assert seven.content == one.content
    assert seven.extra == one.extra and seven.counts == one.counts
    evals = [read_manifest(tmp_path / f"{name}-eval", kind="eval").content for name in ("one", "seven")]
    assert evals[0] == evals[1]


def test_a_shard_goes_on_with_the_blocks_that_are_missing(mirror: Path, tmp_path: Path) -> None:
    data = mix(mirror)
    whole = prepared(data, tmp_path / "whole")
    (place,) = {file.parent for file in (tmp_path / "state/mix").glob("*/block-00014.json")}
    for file in (*place.glob("*-0000[3-5].*"), *place.glob("end-*")):  # as a kill leaves them: not there
        file.unlink()
    kept = {file: file.stat().st_ino for file in place.glob("block-*")}
    again = prepared(data, tmp_path / "again")

    assert again.content == whole.content and again.extra == whole.extra
    assert {file: file.stat().st_ino for file in kept} == kept, "finished blocks are not made again"


def test_a_missing_shard_is_named_by_its_source(mirror: Path, tmp_path: Path) -> None:
    data = mix(mirror, "plain", "capped")
    for number, part in enumerate((Slice("plain", 0, 2), Slice("capped"))):
        write_shard(data, (part,), tmp_path / f"{number}")
    with pytest.raises(UserError, match="source plain: block 1 is missing"):
        prepared(data, tmp_path / "out", prepared=[tmp_path / "0", tmp_path / "1"])
    with pytest.raises(UserError, match="the shards lack source capped"):
        prepared(data, tmp_path / "out", prepared=[tmp_path / "0"])


def test_every_row_is_accounted_for(mirror: Path, tmp_path: Path) -> None:
    manifest = prepared(mix(mirror, dev_queries=4), tmp_path / "out")
    by_name = {one["name"]: one for one in manifest.extra["sources"]}
    for one in by_name.values():
        assert one["rows"] == one["unusable_rows"] + one["left_by_cap"] + sum(one["dropped"].values()) + one["examples"]
    assert by_name["plain"]["dropped"]["exact duplicate"] == 3
    assert by_name["plain"]["dropped"]["evaluation text"] == 1
    assert by_name["capped"]["left_by_cap"] == 30
    assert manifest.inputs == {name: one["digest"] for name, one in by_name.items()}
    assert manifest.licenses["joined"] == "cc-by-4.0"
    examples = read_examples(tmp_path / "out")
    assert manifest.counts["train_examples"] == len(examples) == sum(one["examples"] for one in by_name.values())
    assert [one.source for one in examples] == sorted(one.source for one in examples)


def test_texts_of_a_datasets_own_test_split_go_but_labels_stay(mirror: Path, tmp_path: Path) -> None:
    prepared(mix(mirror, "topics", "kinds"), tmp_path / "out")
    examples = read_examples(tmp_path / "out")
    leaked = "a remark on rivers and lakes, the 3th"
    assert all(leaked not in (one.query, one.positive, *one.negatives) for one in examples)
    kinds = [one for one in examples if one.source == "kinds"]
    assert len(kinds) == 29 and {one.positive for one in kinds} == set(TOPICS), "trains and rails is a label there"


def test_what_decontamination_drops_is_listed_and_what_it_asked_is_told(mirror: Path, tmp_path: Path) -> None:
    manifest = prepared(mix(mirror), tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "dropped.parquet").to_pylist()
    (row,) = [row for row in rows if row["task"] == "judged.jsonl"]
    assert (row["source"], row["field"], row["evaluation_text"]) == ("plain", "positive", JUDGED)
    told = manifest.extra["decontamination"]
    assert told["checked_against"]["judged.jsonl"]["texts"] == 1
    assert told["dropped"]["plain: positive (near)"] == 1
    unchecked = prepared(mix(mirror, "plain", decontamination={}), tmp_path / "unchecked")
    assert unchecked.extra["decontamination"]["checked_against"] == {}


def test_dev_queries_are_drawn_of_every_retrieval_source_and_stand_nowhere_in_training(
    mirror: Path, tmp_path: Path
) -> None:
    data = mix(mirror, dev_queries=4)
    manifest = prepared(data, tmp_path / "out")
    held = read_retrieval(tmp_path / "out-eval" / "dev" / "retrieval")
    queries = set(held["queries"].values())
    assert manifest.counts["dev_retrieval_queries"] == len(queries) == 4 + 3 + 4, "at most a tenth of a source"
    told = {held["queries"][key]: sentence for key, sentence in held["instructions"].items()}
    assert {said for query, said in told.items() if " plain " in query} == {"Find the story"}
    assert {said for query, said in told.items() if " joined " in query} == {data.instructions["retrieval"]}
    texts = {text for one in read_examples(tmp_path / "out") for text in (one.query, one.positive, *one.negatives)}
    assert not queries & texts


def test_passages_to_mine_stand_once_in_each_pool(mirror: Path, tmp_path: Path) -> None:
    put(mirror, "o/other", [{"query": "what else", "positive": pairs("plain", 1)[0]["positive"]}] * 12)
    other = {"other": {"repo": "o/other"}, "third": {"repo": "o/other", "pool": "plain"}, "plain": SOURCES["plain"]}
    prepared(mix(mirror, sources=other), tmp_path / "out")
    pools = read_pools(tmp_path / "out")
    assert {pool: len(texts) for pool, texts in pools.items()} == {"other": 1, "plain": 99}
    assert len(read_corpus(tmp_path / "out")) == 99


def test_the_report_shows_every_source_with_its_examples_under_their_instructions(mirror: Path, tmp_path: Path) -> None:
    prepared(mix(mirror, forbid_licenses=["cc-by-4.0"]), tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Instruct: Find the story" in page
    assert "| joined | licence cc-by-4.0 is refused by 'cc-by-4.0' |" in page
    assert "| plain | exact duplicate | 3 |" in page
    assert (tmp_path / "out" / "report.png").stat().st_size > 10_000


def test_a_mix_of_which_nothing_is_left(mirror: Path, tmp_path: Path) -> None:
    put(mirror, "o/plain", [{"query": f"{JUDGED} {i}", "positive": f"a story {i}"} for i in range(20)])
    with pytest.raises(UserError, match="no example is left of all of them"):
        prepared(mix(mirror, "plain"), tmp_path / "out")
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_data_that_changed_since_the_door_is_refused(mirror: Path, tmp_path: Path) -> None:
    data = mix(mirror, "plain", "topics")
    data = data.model_copy(update={"digest": check_source(data).digest})
    prepared(data, tmp_path / "out")
    put(mirror, "o/plain", pairs("other", 5))
    with pytest.raises(UserError, match="changed since the recipe was resolved"):
        prepared(data, tmp_path / "out")


def test_evaluation_files_that_are_not_there_end_a_run_at_its_door(mirror: Path) -> None:
    data = mix(mirror, "plain", decontamination={"files": ["/nowhere/at.jsonl"]})
    with pytest.raises(UserError, match=r"data.decontamination.files: /nowhere/at.jsonl: is not there"):
        check_source(data)


def test_evaluation_tasks_whose_data_cannot_be_had_end_a_run_at_its_door_with_the_way_on(mirror: Path) -> None:
    data = mix(mirror, "plain", decontamination={"tasks": ["EmotionClassification"]})
    with pytest.raises(UserError, match=r"mteb/emotion has no test in data.hub_mirror .*decontamination.tasks=\[\]"):
        check_source(data)
    put(mirror, "mteb/emotion", [{"text": JUDGED, "label": 0}], split="test")
    assert check_source(data).rows == 100


def test_a_plan_gives_every_block_to_one_shard_and_leaves_what_is_drawn_by_class_whole(mirror: Path) -> None:
    for number in (1, 2, 5, 50):
        parts = [part for shard in plan_shards(mix(mirror), number) for part in shard]
        for name in SOURCES:
            mine = [part for part in parts if part.source == name]
            assert all(sum(part.holds(block) for part in mine) == 1 for block in range(30))
        assert all(part.of == 1 for part in parts if part.source in ("topics", "kinds"))
    assert plan_shards(Data(), 5) == [()], "what is no mix has one shard with nothing in it"


def test_a_set_of_keys_tells_what_comes_first() -> None:
    random, seen, keys = np.random.default_rng(0), set[int](), KeySet()
    for size in (1, 500, 0, 3, 2000, 10, 700):
        batch = random.integers(0, 3000, size).astype(np.uint64)
        first = [not (key in seen or seen.add(key)) for key in batch.tolist()]
        assert keys.first_seen(batch).tolist() == first
    assert len(keys) == len(seen)
    assert keys.holds(np.array([5000, batch[0]], np.uint64)).tolist() == [False, True]


def test_synthetic_data_take_the_place_that_the_mix_keeps_for_them(mirror: Path, tmp_path: Path) -> None:
    written = [(f"a question on {pool} number {i}", f"{pool} is told of at length in passage {i}") for i, pool in
               enumerate(["synthesis"] * 12)]  # fmt: skip
    written.append(("who jumps over whom", f"It is said that {JUDGED}."))
    made = synthetic_folders(tmp_path / "made", written)
    place = {"synthesis": True, "cap": 10, "stages": [1], "pool": "made", "license": "apache-2.0"}
    data = mix(mirror, dev_queries=4)
    data = data.model_copy(update={"sources": {**data.sources, "by-models": Source.model_validate(place)}})
    own = prepared(data, tmp_path / "own")
    both = prepared(data, tmp_path / "both", synthetic=made)

    examples = [one for one in read_examples(tmp_path / "both") if one.source == "by-models"]
    assert len(examples) == 10 and {(one.query, one.positive) for one in examples} < set(written[:12])
    assert read_pools(tmp_path / "both")["made"].keys() == {document_id(text) for _, text in written[:12]}
    assert unseen_sources(tmp_path / "both", "stage2") == ["by-models"]
    assert own.extra["left_out"] == {"by-models": "the synthesis section writes it, where that is on"}
    assert both.extra["left_out"] == {} and both.extra["sources"][:-1] == own.extra["sources"]
    line = both.extra["sources"][-1]
    assert (line["name"], line["rows"], line["left_by_cap"], line["examples"]) == ("by-models", 13, 2, 10)
    assert line["dropped"] == {"synthetic example that holds an evaluation text": 1}
    mine(
        Mining(teacher=Teacher(kind="bm25"), num_negatives=2),
        Resources(device="cpu"),
        tmp_path / "both",
        tmp_path / "mined",
    )
    passages = {text for _, text in written}
    mined = [one for one in read_examples(tmp_path / "mined") if one.source == "by-models"]
    assert all(len(one.negatives) == 2 and set(one.negatives) < passages for one in mined)
