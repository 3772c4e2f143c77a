"""Real runs for tests to kill: started as `train_stage` starts them, looked at from outside, ended by signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from training.support import HERE, recipe

from nvembed.training.history import read_history
from nvembed.training.job import Job

STEPS = 40
CHECKPOINT_STEPS = 3


def make_job(
    folder: Path, dataset: Path, *, dropout: float = 0.1, zero: int = 0, checkpoint_steps: int = CHECKPOINT_STEPS
) -> Path:
    """A job of recipe `tiny`'s first stage, with more steps, in a state folder of its own."""
    keys = {"steps": STEPS, "checkpoint_steps": checkpoint_steps, "zero_stage": zero}
    made = recipe(*(f"stage1.{key}={value}" for key, value in keys.items()))
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


def start(job: Path, ranks: int = 1, *, prefix: Sequence[str] = (), **options: Any) -> subprocess.Popen:
    """Start the job as `train_stage` does, below the command `prefix`; the starter."""
    command = [*prefix, sys.executable, str(HERE / "driver.py"), str(job), str(ranks)]
    return subprocess.Popen(command, start_new_session=True, **options)


def log_of(job: Path) -> str:
    """What the ranks of all attempts said."""
    log = job.parent / "worker.log"
    return log.read_text() if log.exists() else ""  # a run may be killed before it has one


def finish(job: Path, ranks: int = 1) -> dict[str, torch.Tensor]:
    """Run to the end; the trained tensors."""
    return trained(job, start(job, ranks))


def trained(job: Path, starter: subprocess.Popen) -> dict[str, torch.Tensor]:
    """The trained tensors of a run under way."""
    assert starter.wait(timeout=500) == 0, log_of(job)[-3000:]
    return load_file(job.parent / "result" / "trainable.safetensors")


def as_bytes(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """Tensors, to be compared bit for bit."""
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def losses(state: Path) -> list[tuple[float, ...]]:
    """The curve of a run, as far as it does not tell of time."""
    return [(record["step"], record["loss"], record["grad_norm"]) for record in read_history(state / "metrics.jsonl")]


def steps_done(state: Path) -> int:
    """Steps whose record is written."""
    return len(read_history(state / "metrics.jsonl"))


def steps_kept(state: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(folder.name.split("-")[1]) for folder in (state / "checkpoints").glob("step-*")), default=0)


def wait_for(job: Path, starter: subprocess.Popen, condition: Callable[[], bool], *, every: float = 0.001) -> None:
    """Wait until a condition holds; fails if the run ends before."""
    deadline = time.monotonic() + 300
    while not condition():
        assert starter.poll() is None, "the run ended before the moment came\n" + log_of(job)[-3000:]
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(every)


def descendants(pid: int) -> list[int]:
    """Children, their children and so on."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = dict(map(int, line.split()) for line in listed.splitlines())
    found, seen = [], {pid}
    while new := [child for child, parent in parents.items() if parent in seen and child not in seen]:
        found += new
        seen.update(new)
    return found


def ranks_of(starter: subprocess.Popen) -> list[int]:
    """The processes of a run's ranks: the starter's only child, or children of torchrun, which is that."""
    commands = {pid: _command(pid) for pid in descendants(starter.pid)}
    return [
        pid
        for pid, command in commands.items()
        if "nvembed.training.worker" in command and "torch.distributed.run" not in command
    ]


def _command(pid: int) -> str:
    done = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout


def send(number: int, *processes: int) -> None:
    """A signal to some processes, those that are gone left out."""
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue


def kill(starter: subprocess.Popen, *, tree: bool) -> list[int]:
    """SIGKILL the starter, or it and all its descendants; the descendants."""
    children = descendants(starter.pid)
    send(signal.SIGKILL, starter.pid, *(children if tree else []))
    starter.wait()
    return children
