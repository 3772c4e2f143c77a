"""mine_again, run by KFP's local runner."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
from pipeline_harness import run_component

from components.mine_again.component import mine_again
from nvembed.core.artifacts import read_manifest
from nvembed.evaluation.running import load_trained
from nvembed.recipe import Model, Resources, section_from_json

if TYPE_CHECKING:
    from conftest import TinyRun


def test_stage_1s_own_model_finds_negatives_under_each_rows_instruction(
    tmp_path: Path, sections: dict[str, str], tiny_run: TinyRun
) -> None:
    folder = run_component(
        mine_again,
        tmp_path,
        artifacts=tiny_run.inputs("dataset", "mined", "stage1"),
        mining=json.dumps(json.loads(sections["mining"]) | {"again_with_stage1": True}),
        model=sections["model"],
        resources=sections["resources"],
    )

    manifest = read_manifest(folder / "again", kind="mined", verify=True)
    assert manifest.content != read_manifest(tiny_run.artifact("mine-hard-negatives", "mined")).content
    own = load_trained(
        section_from_json(Model, sections["model"]),
        section_from_json(Resources, sections["resources"]),
        tiny_run.artifact("train", "adapter"),
    )
    assert manifest.extra["teacher"] == own.fingerprint()
    rows = [row for row in pq.read_table(folder / "again" / "train").to_pylist() if row["negatives"]]
    for row in [row for row in rows if row["task_type"] == "retrieval"][:5]:
        query = own.encode([row["query"]], instruction=row["query_instruction"])[0]
        documents = own.encode([row["positive"], *row["negatives"]])
        told = [row["positive_score"], *row["negative_scores"]]
        np.testing.assert_allclose(told, documents @ query, atol=2e-2)  # the run may compute in bf16
    assert "<html" in (folder / "report").read_text(encoding="utf-8")


def test_unless_it_is_asked_for_what_was_mined_is_passed_on(tiny_run: TinyRun) -> None:
    before, after = tiny_run.artifact("mine-hard-negatives", "mined"), tiny_run.artifact("mine-again", "again")
    passed_on = read_manifest(after, kind="mined", verify=True)
    assert replace(passed_on, usage=()) == replace(read_manifest(before), usage=())
    assert passed_on.usage[:-1] == read_manifest(before).usage  # and what passing it on took
