"""What rooms' tests share: one run of the whole `tiny` pipeline with its artifacts, and fresh MLflow stores."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kfp import dsl

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

# Workers share the cores: threads of several processes that wait for one another in turn cost more than they bring.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))

LONG = (  # test files that take half a minute or more on a busy machine, the longest first (`pytest --durations=0`)
    "test_pipeline.py",
    "training/test_resume.py",
    "training/test_watching.py",
    "training/test_what_is_trained.py",
    "training/test_stage.py",
    "training/test_ranks.py",
    "training/test_bad_steps.py",
    "modeling/test_exported_folders.py",
    "training/test_plan.py",
    "cli/test_run.py",
    "registry/test_waiting.py",
    "training/test_stages_of_sources.py",
    "modeling/test_backbone_families.py",
)


def nvembed(*arguments: str, cwd: Path, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    unset = ("MLFLOW_TRACKING_URI", "NVEMBED_STATE", "NVEMBED_RUN_ID", "NVEMBED_PARENT", "NVEMBED_PROGRESS")
    clean = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, "-m", "nvembed.cli", *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, timeout=timeout, check=False
    )


PLANTED = {  # what a run's environment may hold, and nothing that it writes; tests look for the values
    "AWS_SECRET_ACCESS_KEY": "planted-store-key-0f3a",
    "HF_TOKEN": "hf_plantedHubToken1c7e",
    "KFP_TOKEN": "planted-kubeflow-token-52b9",
    "LLM_API_KEY": "sk-planted-language-model-key-8d41",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password-6e20",
}


def planted_in(*texts: str, folders: tuple[Path, ...] = (), values: Iterable[str] = PLANTED.values()) -> list[str]:
    """Where planted values stand: in which of the texts, in which files."""
    wanted = [value.encode() for value in values]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    found = [text[:200] for text in texts if any(value in text.encode() for value in wanted)]
    return found + [str(path) for path in files if any(value in path.read_bytes() for value in wanted)]


MADE_BY = {  # artifact -> type, task and output
    "dataset": ("Dataset", "prepare-data", "dataset"),
    "eval_sets": ("Dataset", "prepare-data", "eval_sets"),
    "mined": ("Dataset", "mine-hard-negatives", "mined"),
    "stage1": ("Model", "train", "adapter"),
    "stage2": ("Model", "train-2", "adapter"),
    "comparison": ("Artifact", "compare-models", "comparison"),
}


@dataclass(frozen=True)
class TinyRun:
    """A finished run of `tiny`: its output folder and each task's folder in KFP's run folder."""

    out: Path
    stdout: str

    @property
    def run_folder(self) -> Path:
        return min(path for path in (self.out / "runs").iterdir() if path.is_dir())

    def artifact(self, task: str, output: str) -> Path:
        (path,) = self.run_folder.glob(f"**/{task}/{output}")
        return path

    def inputs(self, *names: str, **renamed: str) -> dict[str, tuple[type[dsl.Artifact], Path]]:
        """Artifacts as `run_component` takes them; `init="stage1"` hands stage 1's adapter on as `init`."""
        from kfp import dsl

        given = {name: MADE_BY[made] for name, made in [*zip(names, names, strict=True), *renamed.items()]}
        return {name: (getattr(dsl, kind), self.artifact(task, out)) for name, (kind, task, out) in given.items()}

    def results(self) -> list[Path]:
        return sorted(self.run_folder.glob("**/evaluate/results"))


def made_once(folder: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns (plain JSON), called by the first process that asks for `folder`; others wait for it."""
    from nvembed.core.artifacts import write_file
    from nvembed.core.state import hold

    folder.mkdir(exist_ok=True)
    kept = folder / "made.json"
    with hold(folder):
        if not kept.is_file():
            write_file(kept, json.dumps(make()))
    return json.loads(kept.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """One run for all workers of pytest-xdist, which read it at the same time: write nothing into its run folder."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny"

    def run() -> list[Any]:  # a run that failed is kept too: it would fail in the next worker as well
        command = ("run", "--recipe", "tiny", "--output-dir", str(folder / "out"))
        done = nvembed(*command, cwd=folder, **PLANTED)
        return [done.returncode, done.stdout, done.stderr]

    code, stdout, stderr = made_once(folder, run)
    assert code == 0, stdout + stderr
    return TinyRun(folder / "out", stdout)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store, its schema migrated once for all tests."""
    from nvembed.tracking.client import client

    file = tmp_path_factory.mktemp("schema") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
        client().search_experiments()
    return file


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> str:
    """The address of a fresh SQLite store, which is the environment's, with a state folder; no run is under way."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    for name in ("RUN_ID", "TRACKING_RUN_ID", "METRICS", "PARENT"):
        monkeypatch.delenv(f"NVEMBED_{name}", raising=False)
    for name in ("MLFLOW_RUN_ID", "KFP_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    return uri


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first (`--dist loadfile` gives out whole files in this order), so that none is begun last."""
    turn = {ROOT / "tests" / name: at for at, name in enumerate(LONG)}
    items.sort(key=lambda item: turn.get(item.path, len(LONG)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The tally of kills (`tests/training/test_resume.py`): what each run was about when it was killed."""
    kills = [
        value
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in getattr(report, "user_properties", ())
        if name == "kill" and report.when == "call"
    ]
    if kills:
        line = "{:<26} {:>4}  {:<26} {:>9} {:>12}  {}"
        terminalreporter.section("runs killed and resumed")
        terminalreporter.write_line(line.format("phase", "seed", "found", "at step", "resumed from", "same bytes"))
        for phase, seed, found, killed_at, resumed, same in sorted(kills):
            terminalreporter.write_line(line.format(phase, seed, found, killed_at, resumed, "yes" if same else "NO"))
