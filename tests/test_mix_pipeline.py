"""The whole v2 mix, every source in its real schema, through the pipeline with a tiny model: all but the download."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mix_stand_in import write_stand_in

from nvembed.core.artifacts import read_manifest
from nvembed.data import read_examples
from nvembed.recipe import load_recipe

RECIPE = Path(__file__).with_name("mix_tiny.yaml")


@pytest.mark.slow
def test_the_v2_mix_is_prepared_in_shards_mined_trained_in_two_stages_judged_and_registered(tmp_path: Path) -> None:
    from conftest import TinyRun, nvembed

    mirror = write_stand_in(tmp_path / "hub", 40)
    command = ("run", "--recipe", str(RECIPE), "--set", f"data.hub_mirror={mirror}", "--output-dir", "out")
    done = nvembed(*command, cwd=tmp_path, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mix-tiny version 1" in done.stdout

    run = TinyRun(tmp_path / "out", done.stdout)
    manifest = read_manifest(run.artifact("prepare-data", "dataset"), kind="dataset", verify=True)
    wanted = {name for name, source in load_recipe("nvembed-v2").data.sources.items() if not source.synthesis}
    assert {one["name"] for one in manifest.extra["sources"]} == wanted
    assert set(manifest.extra["decontamination"]["checked_against"]) == {
        "EmotionClassification", "STS12", "ArxivClusteringS2S",
    }  # fmt: skip
    assert len(list(run.run_folder.glob("**/prepare-shard/blocks"))) == 3

    before = {one.id: one for one in read_examples(run.artifact("prepare-data", "dataset"))}
    mined = read_examples(run.artifact("mine-hard-negatives", "mined"))
    passages: dict[str, set[str]] = {}
    for one in before.values():
        passages.setdefault(one.source, set()).update([one.positive, *one.negatives])
    assert all(one.negatives == before[one.id].negatives for one in mined if one.task_type != "retrieval")
    assert all(set(one.negatives) <= passages[one.source] for one in mined)

    stages = [
        json.loads((run.artifact(task, "adapter") / "manifest.json").read_text()) for task in ("train", "train-2")
    ]
    assert [stage["headline"][f"stage{number}.steps"] for number, stage in enumerate(stages, 1)] == [4, 4]
