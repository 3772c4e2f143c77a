"""One run of the whole `tiny` pipeline, shared by every test that needs its artifacts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))


def nvembed(*arguments: str, cwd: Path, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    unset = ("MLFLOW_TRACKING_URI", "NVEMBED_STATE", "NVEMBED_RUN_ID", "NVEMBED_PARENT", "NVEMBED_PROGRESS")
    clean = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, "-m", "nvembed.cli", *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, timeout=timeout, check=False
    )


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

    def results(self) -> list[Path]:
        return sorted(self.run_folder.glob("**/evaluate/results"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    folder = tmp_path_factory.mktemp("tiny")
    done = nvembed("run", "--recipe", "tiny", "--output-dir", str(folder / "out"), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return TinyRun(folder / "out", done.stdout)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share the tiny run stay on one worker, so that it runs once."""
    for item in items:
        if "tiny_run" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("tiny"))
