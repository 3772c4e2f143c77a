"""Kills at moments drawn by (seed, phase): reproducible as far as a moment of another process can be.

Drawn are a step and a delay. From that step on, as soon as the phase has come and the delay is over, the rank is
frozen (SIGSTOP) and looked at; only if it is in the phase asked for is everything killed (SIGKILL), else it goes on to
the next such moment. So a tally that says "checkpoint being written" is of kills that hit the writing.
"""

import random
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from training.runs import CHECKPOINT_STEPS, STEPS, descendants, log_of, send, steps_done, steps_kept, wait_for

WRITING = ("checkpoint being written", "checkpoint not yet named")
PHASES = ("loading", "in a step", *WRITING, "finishing")
SEEDS = range(4)


@dataclass(frozen=True)
class Kill:
    """One kill: what was drawn, and what was found when the rank stood still."""

    phase: str
    seed: int
    steps_done: int
    newest_checkpoint: int
    found: str
    log_size: int


def kill_at_drawn_moment(job: Path, starter: subprocess.Popen, phase: str, seed: int) -> Kill:
    """Kill a run just started, in the phase asked for."""
    state, draw = job.parent, random.Random(f"{phase}/{seed}")
    if phase == "loading":
        until = time.monotonic() + 6 * draw.random()
        wait_for(job, starter, lambda: time.monotonic() > until or steps_done(state) > 0)
    else:
        first = STEPS if phase == "finishing" else draw.randrange(CHECKPOINT_STEPS + 1, STEPS * 2 // 3)
        wait_for(job, starter, lambda: steps_done(state) >= first)
        _freeze(job, starter, phase, draw)
    kill = Kill(phase, seed, steps_done(state), steps_kept(state), _doing(state), len(log_of(job)))
    send(signal.SIGKILL, starter.pid, *descendants(starter.pid))
    starter.wait()
    return kill


def resumed_from(job: Path, kill: Kill) -> int:
    """The step from which the attempt after the kill went on; 0: from the start."""
    step = re.search(r"going on from the checkpoint of step (\d+)", log_of(job)[kill.log_size :])
    return int(step[1]) if step else 0


def _freeze(job: Path, starter: subprocess.Popen, phase: str, draw: random.Random) -> None:
    """Stop the rank in the phase."""
    state = job.parent
    rank = _rank(state)
    assert rank is not None
    while True:
        if phase in WRITING:
            wait_for(job, starter, lambda: _checkpoint_aside(state) == phase, every=0)
        time.sleep(0.001 * draw.random())
        send(signal.SIGSTOP, rank)
        if phase == "finishing" or _doing(state) == phase:
            return
        send(signal.SIGCONT, rank)


def _rank(state: Path) -> int | None:
    """The process that holds the state folder's lock."""
    lock = state / ".lock"
    text = lock.read_text() if lock.exists() else ""
    return int(text) if text else None


def _doing(state: Path) -> str:
    """What a run is about, as its files tell."""
    if (state / "result").exists():
        return "result there"
    if any(state.glob(".result.*.partial")):
        return "result being written"
    done = steps_done(state)
    return _checkpoint_aside(state) or ("finishing" if done == STEPS else "in a step" if done else "loading")


def _checkpoint_aside(state: Path) -> str | None:
    """How far the checkpoint has come that is being written, if one is."""
    for aside in (state / "checkpoints").glob(".step-*.partial"):
        return WRITING[(aside / "state.json").exists()]
    return None
