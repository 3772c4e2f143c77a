"""synthesize_data, run by KFP's local runner."""

from __future__ import annotations

from pathlib import Path

from chat_server import KEY, chat_server
from pipeline_harness import environment, run_component
from synthetic_documents import write_documents

from components.synthesize_data.component import synthesize_data
from nvembed.core.artifacts import read_manifest
from nvembed.data import read_examples
from nvembed.recipe import load_recipe, section_json
from nvembed.steps.door import check_recipe

EVERY_RANK = ["synthesis.quality.round_trip.rank=1000", "synthesis.quality.language=false"]


def test_off_it_costs_a_manifest(tmp_path: Path, sections: dict[str, str]) -> None:
    folder = run_component(synthesize_data, tmp_path, synthesis=sections["synthesis"])

    assert read_manifest(folder / "dataset", kind="dataset").extra["synthesis"] == {"enabled": False}
    assert read_manifest(folder / "eval_sets", kind="eval")
    assert "off" in (folder / "report").read_text(encoding="utf-8")


def test_on_it_writes_examples_held_out_sets_and_a_report(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "docs")
    with chat_server() as server, environment(PLANTED_KEY=KEY):
        overrides = [f"data.path={documents}", *server.overrides(), *EVERY_RANK, "synthesis.held_out.min_queries=2"]
        section = section_json(check_recipe(load_recipe("tiny", overrides)).synthesis)
        folder = run_component(synthesize_data, tmp_path, synthesis=section)

    manifest = read_manifest(folder / "dataset", kind="dataset", verify=True)
    assert manifest.extra["synthesis"]["alone"] and manifest.counts["train_examples"] > 10
    assert len(read_examples(folder / "dataset")) == manifest.counts["train_examples"]
    assert read_manifest(folder / "eval_sets", kind="eval", verify=True).counts["test_synthetic-retrieval_queries"] >= 2
    assert "<html" in (folder / "report").read_text(encoding="utf-8")
    assert KEY not in section
