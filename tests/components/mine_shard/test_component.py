"""mine_shard, run by KFP's local runner, and what mine_hard_negatives makes of three of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from kfp import dsl
from pipeline_harness import run_component

from components.mine_hard_negatives.component import mine_hard_negatives
from components.mine_shard.component import mine_shard
from nvembed.core.artifacts import read_manifest

if TYPE_CHECKING:
    from conftest import TinyRun


def test_three_shards_give_what_one_task_gave(tmp_path: Path, sections: dict[str, str], tiny_run: TinyRun) -> None:
    common = {"mining": sections["mining"], "resources": sections["resources"]}
    shards = []
    for number in range(3):
        folder = run_component(
            mine_shard,
            tmp_path / str(number),
            artifacts=tiny_run.inputs("dataset"),
            shard=json.dumps({"number": number, "of": 3}),
            **common,
        )
        shards.append(folder / "neighbours")
        assert read_manifest(shards[-1], kind="neighbours", verify=True).counts == {"number": number, "of": 3}
    merged = run_component(
        mine_hard_negatives,
        tmp_path / "merged",
        artifacts=tiny_run.inputs("dataset"),
        lists={"shards": (dsl.Dataset, shards)},
        **common,
    )
    whole = read_manifest(tiny_run.artifact("mine-hard-negatives", "mined"))
    assert read_manifest(merged / "mined", verify=True).content == whole.content


def test_a_shard_alone_leaves_the_work_to_the_next_task(tiny_run: TinyRun) -> None:
    folder = tiny_run.artifact("mine-shard", "neighbours")
    assert read_manifest(folder, kind="neighbours").counts == {"number": 0, "of": 1}
    assert not list(folder.glob("*.npz"))
