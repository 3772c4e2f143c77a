"""A run that is killed loses nothing but the steps since its last checkpoint.

What is pinned: after SIGKILL of whoever started it, a started-again run waits for the old ranks to be gone, goes on
from the newest whole checkpoint and ends with the very bytes of an undisturbed run; its metrics are one curve.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from training.support import HERE, make_dataset, make_examples, recipe

from nvembed.training.checkpoints import TENSORS, newest_checkpoint
from nvembed.training.history import read_history
from nvembed.training.job import Job

STEPS = 40


def make_job(folder: Path, dataset: Path, **changes) -> Path:
    """A job in a state folder of its own, with dropout active."""
    made = recipe(f"stage1.steps={STEPS}", "stage1.checkpoint_steps=3", "model.lora.dropout=0.1")
    folder.mkdir()
    sections = {"stage": made.stage1.model_dump(mode="json"), "model": made.model.model_dump(mode="json")}
    job = Job(
        name="stage1",
        **sections,
        dataset=str(dataset),
        init=None,
        state=str(folder),
        resume=None,
        made_by={**sections, "code": "of the test"},
        device="cpu",
        threads=1,
    )
    job.write(folder / "job.json")
    return folder / "job.json"


def start(job: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(HERE / "driver.py"), str(job)], start_new_session=True)


def steps_kept(state: Path) -> int:
    return max((int(folder.name.split("-")[1]) for folder in (state / "checkpoints").glob("step-*")), default=0)


def kill_after(job: Path, step: int) -> int:
    """Start, wait for a checkpoint of `step` or later, kill the starter's whole tree; the last checkpoint then."""
    starter = start(job)
    deadline = time.monotonic() + 120
    while steps_kept(job.parent) < step:
        assert starter.poll() is None, (job.parent / "worker.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for process in [starter.pid, *descendants(starter.pid)]:
        os.kill(process, signal.SIGKILL)
    starter.wait()
    return steps_kept(job.parent)


def descendants(pid: int) -> list[int]:
    """Children, their children and so on."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = dict(map(int, line.split()) for line in listed.splitlines())
    found, seen = [], {pid}
    while new := [child for child, parent in parents.items() if parent in seen and child not in seen]:
        found += new
        seen.update(new)
    return found


def finish(job: Path) -> dict[str, bytes]:
    """Run to the end; the bytes of each trained tensor."""
    assert start(job).wait(timeout=180) == 0, (job.parent / "worker.log").read_text()[-3000:]
    tensors = load_file(job.parent / "result" / "trainable.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Dataset, and the final bytes and metrics of a run that nobody touched."""
    folder = tmp_path_factory.mktemp("resume")
    dataset = make_dataset(folder / "dataset", make_examples(50))
    job = make_job(folder / "undisturbed", dataset)
    return dataset, finish(job), read_history(folder / "undisturbed" / "metrics.jsonl")


def losses(records):
    return [(record["step"], record["loss"], record["grad_norm"]) for record in records]


def test_killed_twice_and_its_newest_checkpoint_damaged_a_run_ends_with_the_bytes_of_an_undisturbed_one(
    undisturbed, tmp_path
):
    dataset, expected, history = undisturbed
    job = make_job(tmp_path / "state", dataset)
    first = kill_after(job, 6)
    assert 6 <= first < STEPS
    second = kill_after(job, first + 6)
    assert second > first, "the second run did not go on from the first one's checkpoint"
    newest = newest_checkpoint(tmp_path / "state" / "checkpoints")
    with (newest.folder / TENSORS).open("r+b") as stream:
        stream.seek(2000)
        stream.write(b"damaged")
    assert finish(job) == expected
    log = (tmp_path / "state" / "worker.log").read_text()
    assert "passed over" in log
    assert f"going on from the checkpoint of step {newest.step - 3}" in log
    assert losses(read_history(tmp_path / "state" / "metrics.jsonl")) == losses(history)
    assert len(history) == STEPS
    assert not (tmp_path / "state" / "checkpoints").exists(), "a finished run needs its checkpoints no more"


def test_when_only_the_starter_is_killed_its_ranks_end_and_a_run_started_at_once_waits_for_them(undisturbed, tmp_path):
    dataset, expected, _ = undisturbed
    job = make_job(tmp_path / "state", dataset)
    starter = start(job)
    while steps_kept(tmp_path / "state") < 3:
        assert starter.poll() is None
        time.sleep(0.005)
    ranks = descendants(starter.pid)
    starter.kill()
    starter.wait()
    assert finish(job) == expected
    assert not [pid for pid in ranks if Path(f"/proc/{pid}").exists()]
    assert "going on from the checkpoint" in (tmp_path / "state" / "worker.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_sigterm_keeps_the_step_reached(undisturbed, tmp_path, seed):
    dataset, expected, _ = undisturbed
    job = make_job(tmp_path / "state", dataset)
    starter = start(job)
    while (
        not (tmp_path / "state" / "metrics.jsonl").exists()
        or len(read_history(tmp_path / "state" / "metrics.jsonl")) < 5 + seed
    ):
        time.sleep(0.005)
    starter.terminate()
    assert starter.wait(timeout=60) == 128 + signal.SIGTERM
    reached = len(read_history(tmp_path / "state" / "metrics.jsonl"))
    assert steps_kept(tmp_path / "state") == reached < STEPS
    assert finish(job) == expected
    shutil.rmtree(tmp_path)


def test_the_result_says_what_it_took(undisturbed, tmp_path_factory):
    dataset, _, _ = undisturbed
    facts = json.loads((dataset.parent / "undisturbed" / "result" / "result.json").read_text())
    assert facts["seconds"] > 0
    assert facts["world"] == 1
    assert facts["precision"] == "float32"
