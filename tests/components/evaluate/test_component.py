"""evaluate, run by KFP's local runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pipeline_harness import run_component

from components.evaluate.component import evaluate
from nvembed.core.artifacts import read_manifest
from nvembed.evaluation.shards import whole_folders

if TYPE_CHECKING:
    from conftest import TinyRun


@pytest.mark.parametrize("candidate", ["bm25", "stage2"])
def test_scores_a_candidate_as_the_pipeline_did(
    tmp_path: Path, sections: dict[str, str], tiny_run: TinyRun, candidate: str
) -> None:
    folder = run_component(
        evaluate,
        tmp_path,
        artifacts=tiny_run.inputs("eval_sets", "stage1", "stage2"),
        candidate=candidate,
        **{name: sections[name] for name in ("evaluation", "model", "resources")},
    )

    results = json.loads((folder / "results" / "results.json").read_text(encoding="utf-8"))
    assert results["candidate"] == candidate
    assert results["errors"] == []
    (same,) = [path for path in tiny_run.results() if read_manifest(path).extra["candidate"] == candidate]
    assert read_manifest(folder / "results").headline == pytest.approx(read_manifest(same).headline, abs=1e-6)


def test_shares_together_hold_what_one_task_measures(
    tmp_path: Path, sections: dict[str, str], tiny_run: TinyRun
) -> None:
    folders = [
        run_component(
            evaluate,
            tmp_path / str(number),
            artifacts=tiny_run.inputs("eval_sets", "stage1", "stage2"),
            candidate=f"bm25 {number}/2",
            **{name: sections[name] for name in ("evaluation", "model", "resources")},
        )
        / "results"
        for number in (1, 2)
    ]
    (joined,) = whole_folders(folders)
    (whole,) = [path for path in tiny_run.results() if read_manifest(path).extra["candidate"] == "bm25"]
    assert read_manifest(joined).content == read_manifest(whole).content
