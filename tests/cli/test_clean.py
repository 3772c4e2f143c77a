"""`nvembed clean`: what the newest runs need stays, wherever it lies; what was paid for or not yet told stays too."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from nvembed.cli import main
from nvembed.cli.clean import Removal, removals
from nvembed.core.state import hold


class _Runs:
    """An output folder with three runs of two tasks each: two take `prepare` from the first's cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start = time.time() - 3 * 3600
        prepared = self._artifact("run-a", "prepare", "dataset", 0)
        for hour, name in enumerate("abc"):
            trained = self._artifact(f"run-{name}", "train", "adapter", hour)
            self._result(hour, {"prepare": {"dataset": str(prepared)}, "train": {"adapter": str(trained)}})
            self._cache(f"train-{name}", trained)
        self._cache("prepare", prepared)

    def state(self, kind: str, name: str, hour: float, **files: str) -> Path:
        folder = self.folder / "state" / kind / name
        folder.mkdir(parents=True)
        for file, text in {"data": "x", **files}.items():
            (folder / file).write_text(text)
        for path in [*folder.iterdir(), folder]:
            os.utime(path, (self.start + hour * 3600,) * 2)
        return folder

    def _artifact(self, run: str, task: str, name: str, hour: int) -> Path:
        folder = self.folder / "runs" / run / task / name
        folder.mkdir(parents=True)
        (folder / "data").write_text("x" * 1000)
        os.utime(self.folder / "runs" / run, (self.start + hour * 3600,) * 2)
        return folder

    def _result(self, hour: int, outputs: dict[str, dict[str, str]]) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.start + hour * 3600))
        (self.folder / "logs").mkdir(exist_ok=True)
        text = json.dumps({"succeeded": True, "outputs": outputs})
        (self.folder / "logs" / f"{stamp}-abcdef.result.json").write_text(text)
        (self.folder / "logs" / f"{stamp}-abcdef.log").write_text("log")

    def _cache(self, name: str, artifact: Path) -> None:
        (self.folder / "cache").mkdir(exist_ok=True)
        (self.folder / "cache" / f"{name}.json").write_text(json.dumps({"out": {"uri": str(artifact)}}))


@pytest.fixture
def runs(tmp_path: Path) -> _Runs:
    return _Runs(tmp_path / "out")


def _gone(found: list[Removal], runs: _Runs) -> set[str]:
    return {str(removal.path.relative_to(runs.folder)) for removal in found}


def test_what_the_newest_run_took_from_an_old_ones_folder_stays(runs: _Runs) -> None:
    gone = _gone(removals(runs.folder, runs.folder / "state", keep=1), runs)

    assert {path for path in gone if not path.startswith("logs")} == {
        "runs/run-a/train",
        "runs/run-b",
        "cache/train-a.json",
        "cache/train-b.json",
    }
    assert len([path for path in gone if path.startswith("logs")]) == 4


def test_nothing_goes_while_there_are_no_more_runs_than_are_kept(runs: _Runs) -> None:
    assert not removals(runs.folder, runs.folder / "state", keep=3)


def test_state_goes_if_no_task_of_a_kept_run_used_it(runs: _Runs) -> None:
    runs.state("training", "old", hour=0.5)
    runs.state("training", "used", hour=2.5)
    runs.state("synthesis", "answers-paid-for", hour=0.5)
    runs.state("spool", "sent", hour=0.5, **{"task.json": json.dumps({"closed": True})})
    runs.state("spool", "not-sent", hour=0.5, **{"task.json": json.dumps({"closed": False})})
    runs.state("spool", "damaged", hour=0.5, **{"task.json": "{"})
    gone = _gone(removals(runs.folder, runs.folder / "state", keep=1), runs)

    assert {path for path in gone if path.startswith("state")} == {"state/training/old", "state/spool/sent"}


def test_on_a_cluster_days_decide(tmp_path: Path) -> None:
    runs = _Runs(tmp_path / "out")
    runs.state("embeddings", "old", hour=-48)
    runs.state("embeddings", "new", hour=0)

    assert _gone(removals(tmp_path / "nothing", runs.folder / "state", keep=5, days=1), runs) == {
        "state/embeddings/old"
    }
    assert not removals(tmp_path / "nothing", runs.folder / "state", keep=5)


def test_what_a_living_process_holds_stays(runs: _Runs) -> None:
    folder = runs.state("training", "held", hour=0)
    removal = Removal("state: training", folder, 1)
    with hold(folder):
        assert not removal.carry_out()
    assert folder.is_dir()
    assert removal.carry_out()
    assert not folder.exists()


def test_a_dry_run_tells_and_removes_nothing(runs: _Runs, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(runs.folder.rglob("*"))
    arguments = ["clean", "--output-dir", str(runs.folder), "--keep", "1", "--no-models"]
    assert main([*arguments, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "would remove  run  " in told and "would remove 1 × task of a run, 1 × run, 2 × cache entry, 4 × log" in told
    assert [path for path in sorted(runs.folder.rglob("*")) if path.name != ".lock"] == before

    assert main(arguments) == 0
    assert "removed 1 × task of a run" in capsys.readouterr().out
    assert not (runs.folder / "runs" / "run-b").exists()
    assert (runs.folder / "runs" / "run-a" / "prepare" / "dataset" / "data").is_file()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", "--output-dir", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
