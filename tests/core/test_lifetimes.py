"""State has one writer at a time, and writers die with the run that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nvembed.core.errors import UserError
from nvembed.core.lifeline import process_identity
from nvembed.core.state import hold, state_folder

HOLD = """
import sys, time
from pathlib import Path
from nvembed.core.state import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
TIED = """
import sys, time
from nvembed.core.lifeline import tie_to_parent
print("here", flush=True)  # first: where the named process is gone already, nothing is said once it is tied
tie_to_parent(every=0.05)
time.sleep(60)
"""


def start(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A process that has said that it is where it should be."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def wait_until(true: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def test_a_folder_held_by_another_process_is_not_to_be_had(tmp_path: Path) -> None:
    holder = start(HOLD, str(tmp_path))
    try:
        with pytest.raises(TimeoutError), hold(tmp_path, timeout=0.3):
            pass
        assert (tmp_path / ".lock").read_text() == str(holder.pid)
    finally:
        end(holder)


def test_a_holder_killed_outright_frees_the_folder(tmp_path: Path) -> None:
    holder = start(HOLD, str(tmp_path))
    os.kill(holder.pid, signal.SIGKILL)
    try:
        with hold(tmp_path, timeout=5):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())
    finally:
        end(holder)


def test_whoever_waits_gets_the_folder_when_it_is_free(tmp_path: Path) -> None:
    with hold(tmp_path):
        waiting = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        time.sleep(0.7)
        assert waiting.poll() is None
    try:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "held\n"
    finally:
        end(waiting)


def test_a_folder_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), hold(tmp_path):
        raise RuntimeError
    with hold(tmp_path, timeout=0):
        pass


def test_state_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "s"))
    assert state_folder("checkpoints", "ab" * 32) == tmp_path / "s" / "checkpoints" / ("ab" * 12)


def test_a_state_root_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="NVEMBED_STATE: cannot write"):
        state_folder("checkpoints", "ab")


def test_a_worker_ends_when_the_named_process_is_killed() -> None:
    named = subprocess.Popen(["sleep", "60"])
    worker = start(TIED, NVEMBED_PARENT=str(process_identity(named.pid)))
    try:
        assert worker.poll() is None
        named.kill()
        named.wait()
        assert wait_until(lambda: worker.poll() is not None)
        assert worker.returncode == 1
    finally:
        end(worker)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux shows what waits to be reaped")
def test_a_worker_ends_when_the_named_process_is_dead_but_not_reaped() -> None:
    named = subprocess.Popen(["sleep", "60"])
    worker = start(TIED, NVEMBED_PARENT=str(process_identity(named.pid)))
    try:
        named.kill()  # and no wait(): it stays in the table of processes
        assert wait_until(lambda: worker.poll() is not None)
        assert named.returncode is None
        os.kill(named.pid, 0)
    finally:
        end(worker)
        named.wait()


def test_a_worker_ends_when_another_process_has_the_named_ones_number() -> None:
    own = str(process_identity(os.getpid()))
    number, started = own.split(":")
    worker = start(TIED, NVEMBED_PARENT=f"{number}:{int(started or 1) - 1}")
    try:
        assert wait_until(lambda: worker.poll() is not None)
    finally:
        end(worker)


def test_a_worker_lives_while_the_named_process_lives() -> None:
    worker = start(TIED, NVEMBED_PARENT=str(process_identity(os.getpid())))
    try:
        time.sleep(0.5)
        assert worker.poll() is None
    finally:
        end(worker)


def test_a_process_that_no_run_started_is_left_alone() -> None:
    worker = start(TIED, NVEMBED_PARENT="")
    try:
        time.sleep(0.5)
        assert worker.poll() is None
    finally:
        end(worker)
