"""mine_hard_negatives, run by KFP's local runner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kfp import dsl
from pipeline_harness import run_component

from components.mine_hard_negatives.component import mine_hard_negatives
from nvembed.core.artifacts import read_manifest
from nvembed.data import read_examples

if TYPE_CHECKING:
    from conftest import TinyRun


def test_gives_retrieval_examples_negatives_from_the_corpus(
    tmp_path: Path, sections: dict[str, str], tiny_run: TinyRun
) -> None:
    folder = run_component(
        mine_hard_negatives,
        tmp_path,
        artifacts=tiny_run.inputs("dataset"),
        lists={"shards": (dsl.Dataset, [tiny_run.artifact("mine-shard", "neighbours")])},
        mining=sections["mining"],
        resources=sections["resources"],
    )

    assert read_manifest(folder / "mined", kind="mined", verify=True).headline["mining.queries"] > 0
    mined = [example for example in read_examples(folder / "mined") if example.task_type == "retrieval"]
    assert any(example.negatives for example in mined)
    assert not any(example.positive in example.negatives for example in mined)
    assert (
        read_manifest(folder / "mined").content
        == read_manifest(tiny_run.artifact("mine-hard-negatives", "mined")).content
    )
