"""prepare_shard, run by KFP's local runner."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pipeline_harness import environment, run_component

from components.prepare_shard.component import prepare_shard
from nvembed.core.artifacts import read_manifest
from nvembed.data import prepare, read_examples
from nvembed.data.shards import plan_shards, shard_json
from nvembed.recipe import Data, section_json


def test_writes_the_blocks_of_its_slices_for_prepare_data_to_merge(tmp_path: Path) -> None:
    file = tmp_path / "hub" / "o" / "set" / "default" / "train.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{"query": f"q {i}", "positive": f"p {i}"} for i in range(20)]), file)
    data = Data.model_validate(
        {"source": "mix", "sources": {"mine": {"repo": "o/set"}}, "hub_mirror": str(tmp_path / "hub")}
    )
    (shard,) = plan_shards(data, 1)
    with environment(NVEMBED_STATE=str(tmp_path / "state")):
        folder = run_component(prepare_shard, tmp_path, data=section_json(data), shard=shard_json(0, shard))

    assert read_manifest(folder / "blocks", kind="shard", verify=True).counts == {"slices": 1}
    assert json.loads((folder / "blocks" / "mine" / "end-0-of-1.json").read_text())["blocks"] == 1
    prepare(data, tmp_path / "dataset", tmp_path / "eval", prepared=[folder / "blocks"])
    assert len(read_examples(tmp_path / "dataset")) == 20
