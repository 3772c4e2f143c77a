"""A run that is killed loses nothing but the steps since its last checkpoint.

What is pinned: after SIGKILL of whoever started it, or of everything, a run that is started again at once waits for the
old ranks to be gone, goes on from the newest whole checkpoint and ends with the very bytes of an undisturbed run; its
metrics are one curve. A checkpoint of one ZeRO stage and number of ranks serves any other.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training.support import HERE, make_dataset, make_examples, recipe

from nvembed.core.lifeline import process_identity
from nvembed.training.checkpoints import TENSORS, newest_checkpoint
from nvembed.training.history import read_history
from nvembed.training.job import Job

STEPS = 40


def make_job(folder: Path, dataset: Path, *, dropout: float = 0.1, zero: int = 0) -> Path:
    """A job in a state folder of its own."""
    made = recipe(f"stage1.steps={STEPS}", "stage1.checkpoint_steps=3", f"stage1.zero_stage={zero}")
    folder.mkdir(parents=True, exist_ok=True)
    sections = {"stage": made.stage1.model_dump(mode="json"), "model": made.model.model_dump(mode="json")}
    sections["model"]["lora"]["dropout"] = dropout
    job = Job(
        name="stage1",
        **sections,
        dataset=str(dataset),
        init=None,
        state=str(folder),
        resume=None,
        made_by={"model": sections["model"], "code": "of the test"},
        device="cpu",
        threads=1,
    )
    job.write(folder / "job.json")
    return folder / "job.json"


def start(job: Path, ranks: int = 1) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(HERE / "driver.py"), str(job), str(ranks)], start_new_session=True)


def steps_kept(state: Path) -> int:
    return max((int(folder.name.split("-")[1]) for folder in (state / "checkpoints").glob("step-*")), default=0)


def wait_for(job: Path, starter: subprocess.Popen, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert starter.poll() is None, (job.parent / "worker.log").read_text()[-3000:]
        assert time.monotonic() < deadline, "the moment to kill did not come"
        time.sleep(0.001)


def descendants(pid: int) -> list[int]:
    """Children, their children and so on."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = dict(map(int, line.split()) for line in listed.splitlines())
    found, seen = [], {pid}
    while new := [child for child, parent in parents.items() if parent in seen and child not in seen]:
        found += new
        seen.update(new)
    return found


def kill(starter: subprocess.Popen, *, tree: bool) -> list[int]:
    """SIGKILL the starter, or it and all its descendants; the descendants."""
    children = descendants(starter.pid)
    for process in [starter.pid, *(children if tree else [])]:
        os.kill(process, signal.SIGKILL)
    starter.wait()
    return children


def finish(job: Path, ranks: int = 1) -> dict[str, torch.Tensor]:
    """Run to the end; the trained tensors."""
    return trained(job, start(job, ranks))


def trained(job: Path, starter: subprocess.Popen) -> dict[str, torch.Tensor]:
    assert starter.wait(timeout=240) == 0, (job.parent / "worker.log").read_text()[-3000:]
    return load_file(job.parent / "result" / "trainable.safetensors")


def as_bytes(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def losses(state: Path) -> list[tuple[float, ...]]:
    return [(record["step"], record["loss"], record["grad_norm"]) for record in read_history(state / "metrics.jsonl")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Dataset, and a run that nobody touches, under way."""
    folder = tmp_path_factory.mktemp("resume")
    dataset = make_dataset(folder / "dataset", make_examples(50))
    job = make_job(folder / "undisturbed", dataset)
    return dataset, job, start(job)


def test_killed_twice_and_its_newest_checkpoint_damaged_a_run_ends_with_the_bytes_of_an_undisturbed_one(
    undisturbed, tmp_path
):
    dataset, untouched, untouched_starter = undisturbed
    state = tmp_path / "state"
    job = make_job(state, dataset)

    first = start(job)
    wait_for(job, first, lambda: steps_kept(state) >= 6)
    left_behind = kill(first, tree=False)
    second = start(job)
    wait_for(job, second, lambda: not any(process_identity(pid) for pid in left_behind))
    reached = steps_kept(state)
    assert 6 <= reached < STEPS
    wait_for(job, second, lambda: steps_kept(state) >= reached + 6)
    kill(second, tree=True)

    newest = newest_checkpoint(state / "checkpoints")
    with (newest.folder / TENSORS).open("r+b") as stream:
        stream.seek(2000)
        stream.write(b"damaged")
    found = finish(job)
    expected = trained(untouched, untouched_starter)
    assert as_bytes(found) == as_bytes(expected)
    log = (state / "worker.log").read_text()
    assert f"going on from the checkpoint of step {reached}" in log
    assert "passed over" in log
    assert f"going on from the checkpoint of step {newest.step - 3}" in log
    assert losses(state) == losses(untouched.parent)
    assert len(losses(state)) == STEPS
    assert not (state / "checkpoints").exists(), "a finished run needs its checkpoints no more"
    facts = json.loads((untouched.parent / "result" / "result.json").read_text())
    assert (facts["world"], facts["precision"]) == (1, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["in a step", "while a checkpoint is written", "between its writing and its name"])
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_a_run_ends_with_the_same_bytes(undisturbed, tmp_path, phase, seed):
    dataset, untouched, untouched_starter = undisturbed
    state = tmp_path / "state"
    job = make_job(state, dataset)
    starter = start(job)
    aside = state / "checkpoints" / f".step-{3 * (seed + 2):08d}.partial"
    moments = {
        "in a step": lambda: len(read_history(state / "metrics.jsonl")) >= 5 + 4 * seed,
        "while a checkpoint is written": lambda: aside.exists(),
        "between its writing and its name": lambda: (aside / "state.json").exists(),
    }
    wait_for(job, starter, moments[phase])
    kill(starter, tree=True)
    assert as_bytes(finish(job)) == as_bytes(trained(untouched, untouched_starter))


@pytest.mark.slow
def test_sigterm_keeps_the_step_reached(undisturbed, tmp_path):
    dataset, untouched, untouched_starter = undisturbed
    state = tmp_path / "state"
    job = make_job(state, dataset)
    starter = start(job)
    wait_for(job, starter, lambda: len(read_history(state / "metrics.jsonl")) >= 7)
    starter.terminate()
    assert starter.wait(timeout=60) == 128 + signal.SIGTERM
    assert steps_kept(state) == len(read_history(state / "metrics.jsonl")) < STEPS
    assert as_bytes(finish(job)) == as_bytes(trained(untouched, untouched_starter))


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "before", "after"), [(0, 2, 1), (1, 2, 1), (2, 2, 4), (3, 2, 4), (3, 4, 1)])
def test_a_checkpoint_serves_other_numbers_of_ranks(undisturbed, tmp_path, zero, before, after):
    dataset, _, _ = undisturbed
    plain = finish(make_job(tmp_path / "plain", dataset, dropout=0.0))
    job = make_job(tmp_path / "state", dataset, dropout=0.0, zero=zero)
    starter = start(job, before)
    wait_for(job, starter, lambda: steps_kept(tmp_path / "state") >= 12)
    kill(starter, tree=True)
    found = finish(job, after)
    assert "going on from the checkpoint" in (tmp_path / "state" / "worker.log").read_text()
    for (_, ours, _), (_, expected, _) in zip(losses(tmp_path / "state"), losses(tmp_path / "plain"), strict=True):
        assert ours == pytest.approx(expected, rel=2e-3)
    for name, tensor in plain.items():
        torch.testing.assert_close(found[name], tensor, rtol=0.02, atol=0.02 * float(tensor.abs().max()))
