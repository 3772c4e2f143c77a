"""compare_models, run by KFP's local runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from kfp import dsl
from pipeline_harness import run_component

from components.compare_models.component import compare_models

if TYPE_CHECKING:
    from conftest import TinyRun


def test_writes_table_picture_report_and_verdict(tmp_path: Path, sections: dict[str, str], tiny_run: TinyRun) -> None:
    folder = run_component(
        compare_models,
        tmp_path,
        artifacts=tiny_run.inputs("eval_sets", "dataset", "mined", "stage1", "stage2"),
        lists={"results": (dsl.Dataset, tiny_run.results())},
        **{name: sections[name] for name in ("evaluation", "registration", "resources")},
    )

    verdict = json.loads((folder / "comparison" / "comparison.json").read_text(encoding="utf-8"))["verdict"]
    assert isinstance(verdict["passed"], bool)
    assert verdict["reasons"]
    assert (folder / "comparison" / "scores.png").stat().st_size > 10_000
    assert "BM25" in (folder / "table").read_text(encoding="utf-8")
