"""What a task used: counters that turn over, children that count, manifests that keep it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nvembed.core.artifacts import output_folder, read_manifest, write_file, write_manifest
from nvembed.core.usage import Energy, Meter, add_usage, usage_of

_BUSY = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"


class _Gpus:
    """Two GPUs whose counter stands where the test puts it."""

    count = 2

    def __init__(self, joules: float | None) -> None:
        self.now = joules

    def joules(self) -> float | None:
        return self.now


def _counter(root: Path, name: str, value: int, range_: int) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{value}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_}\n")
    return folder


def _made(folder: Path, text: str = "x") -> Path:
    with output_folder(folder) as inner:
        write_file(inner / "a.txt", text)
        write_manifest(inner, kind="dataset", section={})
    return folder


def test_a_counter_that_turns_over_goes_on_counting(tmp_path: Path) -> None:
    package = _counter(tmp_path, "intel-rapl:0", 900, 1000)
    other = _counter(tmp_path, "intel-rapl:1", 0, 1000)
    _counter(tmp_path, "intel-rapl:0:0", 0, 1000)  # a part of the first package: counted there
    energy = Energy(tmp_path)
    (package / "energy_uj").write_text("100")
    (other / "energy_uj").write_text("50")

    assert energy.look() == pytest.approx((200 + 50) / 1e6)
    energy.close()


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    (_counter(tmp_path, "intel-rapl:0", 5, 1000) / "energy_uj").unlink()
    with Meter("train", root=tmp_path, gpus=_Gpus(None)) as meter:
        entry = meter.read()

    assert "cpu_joules" not in entry
    assert "gpu_joules" not in entry


def test_gpus_count_for_as_long_as_they_are_held(tmp_path: Path) -> None:
    gpus = _Gpus(1000.0)
    with Meter("train", "run-1", root=tmp_path, gpus=gpus) as meter:
        gpus.now = 1450.0
        entry = meter.read()

    assert entry["gpu_seconds"] == pytest.approx(2 * entry["seconds"], abs=0.02)
    assert (entry["gpu_joules"], entry["gpus"], entry["run"]) == (450.0, 2, "run-1")


def test_the_processor_time_of_children_counts(tmp_path: Path) -> None:
    with Meter("train", root=tmp_path) as meter:
        subprocess.run([sys.executable, "-c", _BUSY], check=True)
        assert meter.read()["cpu_seconds"] >= 0.29


def test_usage_changes_no_content_and_each_task_counts_once(tmp_path: Path) -> None:
    shard, merged = _made(tmp_path / "shard"), _made(tmp_path / "merged", "y")
    before = read_manifest(merged).content
    add_usage(shard, [{"task": "mine_shard_0", "begun": "2026-01-01T00:00:00", "seconds": 2.0}])
    own = {"task": "mine", "begun": "2026-01-01T00:01:00", "seconds": 1.0}
    add_usage(merged, [*usage_of([shard]), own])
    add_usage(merged, [own])

    assert read_manifest(merged, verify=True).content == before
    assert [entry["task"] for entry in usage_of([merged, shard, merged])] == ["mine_shard_0", "mine"]
