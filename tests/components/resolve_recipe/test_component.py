"""resolve_recipe, run by KFP's local runner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_harness import output_parameters, run_component

from components.resolve_recipe.component import resolve_recipe
from nvembed.core.errors import UserError
from nvembed.steps import resolve_recipe as step


def test_hands_on_every_section_as_canonical_json_with_the_sources_digest(tmp_path: Path) -> None:
    folder = run_component(
        resolve_recipe, tmp_path, recipe="tiny", overrides="stage1.steps=3\nstage2.learning_rate=1e-5"
    )

    sections = output_parameters(folder)
    assert json.loads(sections["stage1"])["steps"] == 3
    assert json.loads(sections["stage2"])["learning_rate"] == 1e-5
    assert len(json.loads(sections["data"])["digest"]) == 64
    assert json.loads(sections["model"])["digest"]
    assert sections["stage1"] == json.dumps(json.loads(sections["stage1"]), sort_keys=True, separators=(",", ":"))
    assert sections["shards"] == ['{"number":0,"slices":[]}']
    assert sections["candidates"] == ["bm25", "base", "stage1", "stage2"]


def test_changing_stage_2_changes_no_section_before_it(tmp_path: Path) -> None:
    first = output_parameters(run_component(resolve_recipe, tmp_path / "a", recipe="tiny"))
    second = output_parameters(
        run_component(resolve_recipe, tmp_path / "b", recipe="tiny", overrides="stage2.learning_rate=1e-5")
    )

    assert {name for name in first if first[name] != second[name]} == {"stage2"}


def test_shares_of_a_candidates_tasks_are_planned_in_the_same_list(tmp_path: Path) -> None:
    overrides = "evaluation.shards=2\nevaluation.candidates=[base, stage2]"
    sections = output_parameters(run_component(resolve_recipe, tmp_path, recipe="tiny", overrides=overrides))
    assert sections["candidates"] == ["base 1/2", "base 2/2", "stage2 1/2", "stage2 2/2"]


def test_a_misspelt_key_fails_the_task(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="resolve-recipe"):
        run_component(resolve_recipe, tmp_path, recipe="tiny", overrides="stage2.lerning_rate=1e-5")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.path=pairs.jsonl", r"data\.path: pairs\.jsonl: .*`nvembed submit --upload-to s3://.* or hf:// address"),
        ("evaluation.own={mine: {path: /my/sets}}", r"evaluation\.own\.mine\.path: /my/sets: .* or hf:// address"),
    ],
)
def test_a_path_of_ones_own_machine_is_the_users_mistake_on_a_cluster_and_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, says: str
) -> None:
    """As a plain `kfp run submit` brings it, which uploads nothing; on a laptop it is a file like any other."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("NVEMBED_PROGRESS", str(tmp_path / "progress.jsonl"))
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    with pytest.raises(UserError) as here:
        step("tiny", override)
    monkeypatch.setenv("KFP_RUN_ID", "run-7")
    with pytest.raises(UserError, match=says) as told:
        step("tiny", override)
    assert "on a cluster a path means" in str(told.value) and "on a cluster" not in str(here.value)
    last = json.loads((tmp_path / "progress.jsonl").read_text().splitlines()[-1])
    assert last["user"] is True and last["text"] == str(told.value), "which is exit code 2"


def test_a_path_on_a_volume_of_the_pod_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.dumps({"query": f"question {n}", "positive": f"answer {n} on thing {n}"}) for n in range(300)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    monkeypatch.setenv("KFP_RUN_ID", "run-7")
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert json.loads(step("tiny", f"data.path={tmp_path / 'pairs.jsonl'}")["data"])["digest"]
