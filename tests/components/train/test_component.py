"""train, run by KFP's local runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_harness import run_component

from components.train.component import train
from nvembed.core.artifacts import read_manifest

if TYPE_CHECKING:
    from conftest import TinyRun


def test_stage_2_goes_on_from_stage_1_and_repeats_bit_for_bit(
    tmp_path: Path, sections: dict[str, str], tiny_run: TinyRun
) -> None:
    folder = run_component(
        train,
        tmp_path,
        artifacts=tiny_run.inputs("eval_sets", dataset="mined", init="stage1"),
        name="stage2",
        stage=json.dumps(json.loads(sections["stage2"]) | {"dev_check": {"every": 2}}),  # a look changes no weight
        model=sections["model"],
        resources=sections["resources"],
    )

    adapter = folder / "adapter" / "trainable.safetensors"
    before = tiny_run.artifact("train", "adapter") / "trainable.safetensors"
    in_the_run = tiny_run.artifact("train-2", "adapter") / "trainable.safetensors"
    assert read_manifest(folder / "adapter", kind="adapter").headline["stage2.steps"] == 3
    assert read_manifest(folder / "adapter").headline["stage2.dev_ndcg_at_10"] > 0
    assert adapter.read_bytes() != before.read_bytes()
    assert adapter.read_bytes() == in_the_run.read_bytes()
