"""register_model, run by KFP's local runner against a real SQLite store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from kfp import dsl
from pipeline_harness import environment, run_component

from components.register_model.component import register_model
from nvembed.tracking import default_uri

if TYPE_CHECKING:
    from conftest import TinyRun


def test_registering_twice_gives_one_version(tmp_path: Path, sections: dict[str, str], tiny_run: TinyRun) -> None:
    def register(root: Path) -> dict[str, object]:
        folder = run_component(
            register_model,
            root,
            artifacts=tiny_run.inputs("comparison", "dataset", "mined", adapter="stage2"),
            lists={"results": (dsl.Dataset, tiny_run.results())},
            registration=sections["registration"],
            model=sections["model"],
        )
        return json.loads((folder / "registered").read_text(encoding="utf-8"))

    with environment(MLFLOW_TRACKING_URI=default_uri(tmp_path / "store"), NVEMBED_RUN_ID="test-run"):
        first, second = register(tmp_path / "a"), register(tmp_path / "b")

    assert first["version"] == second["version"] == "1"
    assert "challenger" in first["aliases"]
