"""The whole pipeline on `tiny`: the compiled YAML under KFP's local runner, from a recipe to a registered model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pytest
import yaml
from conftest import planted_in

from nvembed.core.artifacts import read_manifest
from nvembed.core.digests import digest_folder

if TYPE_CHECKING:
    from conftest import TinyRun
    from mlflow.entities import Run

ROOT = Path(__file__).resolve().parents[1]
HEADLINES = ("challenger/", "eval/", "gain", "mining/", "stage1/", "stage2/", "data/")


def run_tiny(out: Path, *overrides: str, source: Path | None = None) -> str:
    from conftest import nvembed

    settings = [word for override in overrides for word in ("--set", override)]
    extra = {"PYTHONPATH": str(source)} if source else {}
    done = nvembed("run", "--recipe", "tiny", *settings, "--output-dir", str(out), cwd=out.parent, **extra)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def cached(screen: str) -> set[str]:
    """Tasks that the screen calls cached."""
    return {match[1] for match in re.finditer(r"(\w+)\W+cached", screen)}


def parents(out: Path) -> list[Run]:
    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "nvembed"]
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def headlines(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.data.metrics.items() if name.startswith(HEADLINES)}


def test_ends_with_a_table_and_a_registered_model(tiny_run: TinyRun) -> None:
    assert "BM25" in tiny_run.stdout
    assert "nvembed-tiny version 1" in tiny_run.stdout
    assert "nvembed ui" in tiny_run.stdout
    assert (tiny_run.artifact("compare-models", "comparison") / "scores.png").is_file()


def test_every_task_has_a_run_under_the_one_parent(tiny_run: TinyRun) -> None:
    parent = parents(tiny_run.out)[0]
    client = mlflow.MlflowClient(f"sqlite:///{tiny_run.out / 'mlflow.db'}")
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", max_results=100
    )

    assert {run.data.tags["nvembed.task"] for run in children} >= {
        "prepare_data",
        "mine_hard_negatives",
        "train_stage1",
        "train_stage2",
        "evaluate_bm25",
        "evaluate_base",
        "evaluate_stage1",
        "evaluate_stage2",
        "compare_models",
        "register_model",
    }
    assert parent.info.status == "FINISHED"
    assert "eval/stage2.test.retrieval" in parent.data.metrics


def test_no_value_of_a_secret_stands_in_what_a_run_writes_tracks_or_says(tiny_run: TinyRun) -> None:
    assert (tiny_run.out / "mlflow.db").is_file() and list(tiny_run.out.glob("logs/*"))
    assert planted_in(tiny_run.stdout, folders=(tiny_run.out,)) == []


def test_again_trains_nothing_and_registers_nothing(tiny_run: TinyRun) -> None:
    shared = digest_folder(tiny_run.run_folder)
    again = run_tiny(tiny_run.out)

    assert cached(again) >= {"prepare_data", "mine_hard_negatives", "train_stage1", "train_stage2", "evaluate_stage2"}
    first, second = parents(tiny_run.out)
    assert headlines(first) == headlines(second)
    assert headlines(first)
    client = mlflow.MlflowClient(f"sqlite:///{tiny_run.out / 'mlflow.db'}")
    assert len(client.search_model_versions("name='nvembed-tiny'")) == 1
    assert digest_folder(tiny_run.run_folder) == shared, "other tests read the first run's files at the same time"


@pytest.mark.slow
def test_a_changed_stage_2_redoes_stage_2_alone(tiny_run: TinyRun) -> None:
    changed = run_tiny(tiny_run.out, "stage2.learning_rate=1e-5")

    assert cached(changed) >= {"prepare_data", "mine_hard_negatives", "train_stage1"}
    assert "train_stage2" not in cached(changed)


def test_the_compiled_yaml_matches_the_pipeline(tmp_path: Path) -> None:
    from conftest import nvembed

    done = nvembed("compile", "-o", str(tmp_path / "fresh.yaml"), cwd=ROOT)

    assert done.returncode == 0, done.stderr
    fresh, shipped = (
        list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        for file in (tmp_path / "fresh.yaml", ROOT / "pipelines" / "nvembed.yaml")
    )
    assert fresh == shipped


def test_component_readmes_match_their_components() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/component_readmes.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_tasks_that_must_act_every_time_are_not_cached_and_all_others_are() -> None:
    spec = next(yaml.safe_load_all((ROOT / "pipelines" / "nvembed.yaml").read_text(encoding="utf-8")))
    tasks = dict(spec["root"]["dag"]["tasks"])
    for component in spec["components"].values():
        tasks |= component.get("dag", {}).get("tasks", {})
    leaves = {
        name: task for name, task in tasks.items() if "dag" not in spec["components"][task["componentRef"]["name"]]
    }

    uncached = {name for name, task in leaves.items() if not task.get("cachingOptions", {}).get("enableCache")}
    assert uncached == {"resolve-recipe", "compare-models", "register-model", "finalize-run"}
    assert set(leaves) - uncached == {
        *("synthesize-data", "prepare-shard", "prepare-data", "mine-shard", "mine-hard-negatives", "mine-again"),
        *("train", "train-2", "evaluate"),
    }


@pytest.mark.slow
def test_an_edit_to_the_code_is_never_served_from_the_cache(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    run_tiny(tmp_path / "out", source=tmp_path / "src")
    step = tmp_path / "src" / "nvembed" / "training" / "losses.py"
    step.write_text(step.read_text(encoding="utf-8") + "\n# an edit\n", encoding="utf-8")

    assert "train_stage2" not in cached(run_tiny(tmp_path / "out", source=tmp_path / "src"))


@pytest.mark.slow
def test_killed_in_stage_1_and_started_again_it_ends_with_the_weights_of_an_undisturbed_run(tmp_path: Path) -> None:
    longer = ("stage1.steps=60", "stage1.checkpoint_steps=5")
    run_tiny(tmp_path / "calm", *longer)
    settings = [word for override in longer for word in ("--set", override)]
    command = [sys.executable, "-m", "nvembed.cli", "run", "--recipe", "tiny", *settings]
    killed = subprocess.Popen(
        [*command, "--output-dir", str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not list(tmp_path.glob("killed/state/training/*/checkpoints/*/*.json")):
            assert killed.poll() is None, "the run ended before its first checkpoint"
            time.sleep(0.05)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    screen = run_tiny(tmp_path / "killed", *longer)

    assert "train_stage1" not in cached(screen)
    weights = [
        sorted(file.read_bytes() for file in (tmp_path / out / "runs").glob("*/train*/adapter/trainable.safetensors"))
        for out in ("calm", "killed")
    ]
    assert len(weights[0]) == 2
    assert weights[0] == weights[1]
    adapter = next((tmp_path / "killed" / "runs").glob("*/train/adapter"))
    steps = [json.loads(line)["step"] for line in (adapter / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert steps == sorted(set(steps))
    assert read_manifest(adapter).headline["stage1.steps"] == 60
