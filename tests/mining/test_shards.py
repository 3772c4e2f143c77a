"""Mining divided among tasks finds what one task finds, to the byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mining_stand_in import TEXTS, dataset, example, section

from nvembed.core.artifacts import read_manifest
from nvembed.core.digests import digest_folder
from nvembed.core.errors import UserError
from nvembed.mining import mine, mine_shard, plan_shards, shard_from_json
from nvembed.modeling.encoder import Encoder
from nvembed.recipe import Mining, Resources

CPU = Resources(device="cpu")


@pytest.fixture(autouse=True)
def small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("nvembed.encoding.blocks.BLOCK_TEXTS", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [example(f"How do I {text.lower()}?", text, "a text of its own") for text in TEXTS[:20]]
    return dataset(tmp_path / "dataset", rows, TEXTS)


class Killed(BaseException):
    """Stands for a signal."""


def divided(mining: Mining, folder: Path, out: Path, shards: int) -> list[Path]:
    found = []
    for text in plan_shards(mining, shards):
        number, of = shard_from_json(text)
        found.append(out / f"shard-{number}")
        mine_shard(mining, CPU, folder, number, of, found[-1])
    return found


@pytest.mark.parametrize("shards", [1, 3, 8])
@pytest.mark.parametrize("method", ["naive", "percentage"])
def test_any_number_of_shards_gives_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int, method: str
) -> None:
    mining = section(method=method, depth=6)
    mine(mining, CPU, folder, tmp_path / "whole")
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "other"))
    found = divided(mining, folder, tmp_path, shards)
    mine(mining, CPU, folder, tmp_path / "merged", prepared=found)
    assert digest_folder(tmp_path / "merged") == digest_folder(tmp_path / "whole")


def test_the_merging_task_embeds_nothing_and_searches_deeper_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mining = section(method="naive", depth=10, num_negatives=3)
    found = divided(mining, folder, tmp_path, 3)
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("embeds"))
    monkeypatch.setattr("nvembed.mining.dense.top_k", lambda *_, **__: pytest.fail("searches"))
    mine(mining, CPU, folder, tmp_path / "merged", prepared=found)
    assert read_manifest(tmp_path / "merged").counts["mined"] == 20


def test_where_the_state_is_not_shared_the_merge_embeds_anew_and_finds_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mining = section(depth=6)
    found = divided(mining, folder, tmp_path, 3)
    mine(mining, CPU, folder, tmp_path / "here", prepared=found)
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "elsewhere"))
    mine(mining, CPU, folder, tmp_path / "there", prepared=found)
    assert digest_folder(tmp_path / "here") == digest_folder(tmp_path / "there")


def test_a_shard_that_was_killed_embeds_only_the_rest(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    killed: list[bool] = []
    encode = Encoder.encode

    def counted(self: Encoder, texts: list[str], report) -> np.ndarray:
        sizes.append(len(texts))
        if len(sizes) == 7 and not killed:
            killed.append(True)
            raise Killed
        return encode(self, texts, report)

    monkeypatch.setattr(Encoder, "encode", counted)
    with pytest.raises(Killed):
        mine(section(), CPU, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    sizes.pop()  # it was not made
    mine(section(), CPU, folder, tmp_path / "out")
    assert sum(sizes) == 20 + len(TEXTS) + 1


def test_a_corpus_that_grew_costs_its_changed_blocks_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine(section(), CPU, folder, tmp_path / "out")
    rows = [example(f"How do I {text.lower()}?", text, "a text of its own") for text in TEXTS[:20]]
    grown = dataset(tmp_path / "grown", rows, [*TEXTS, "One more passage"])
    embedded: list[str] = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, texts, r: embedded.extend(texts) or encode(self, texts, r))
    mine(section(), CPU, grown, tmp_path / "second")
    assert "One more passage" in embedded
    assert len(embedded) <= 12  # a block of forty-nine texts in sixteen holds three; luck may make it a few more


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found[:2], "shard 2 of 3 is missing"),
        (lambda found: [*found, found[0]], "shard 0 is there twice"),
    ],
)
def test_shards_must_be_those_of_one_plan(folder: Path, tmp_path: Path, change, message: str) -> None:
    found = divided(section(), folder, tmp_path, 3)
    with pytest.raises(UserError, match=message):
        mine(section(), CPU, folder, tmp_path / "out", prepared=change(found))
    assert not (tmp_path / "out").exists()


def test_shards_of_another_section_are_refused(folder: Path, tmp_path: Path) -> None:
    found = divided(section(depth=5), folder, tmp_path, 3)
    with pytest.raises(UserError, match="with another section"):
        mine(section(depth=6), CPU, folder, tmp_path / "out", prepared=found)


@pytest.mark.parametrize("text", ["", "{}", json.dumps({"number": 3, "of": 3}), json.dumps({"number": "x", "of": 1})])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="plan the shards anew"):
        shard_from_json(text)


def test_mining_that_is_off_is_not_divided() -> None:
    assert len(plan_shards(section(enabled=False), 8)) == 1
