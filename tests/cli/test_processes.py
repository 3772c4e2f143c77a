"""Ending a run's processes: training has the time to write a checkpoint, and a second interrupt cuts it short."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from nvembed.cli import processes
from nvembed.cli.board import Board
from nvembed.cli.processes import AWAITING, FINISHING, end_tree
from nvembed.cli.screen import LiveScreen, PlainScreen
from nvembed.training import launch

RANK = """
    import signal, sys, time
    from pathlib import Path

    def finish(*_):
        time.sleep(float(sys.argv[2]))
        (Path(sys.argv[1]) / "checkpoint").touch()
        sys.exit()

    signal.signal(signal.SIGTERM, finish)
    (Path(sys.argv[1]) / "ready").touch()
    time.sleep(60)
"""
RUNNER = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
DRIVER = """
    import subprocess, sys, time
    from nvembed.cli.processes import end_tree

    runner = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], start_new_session=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        end_tree(runner, tell=lambda text: print(text, flush=True))
        print("ended", flush=True)
"""


def tree(folder: Path, seconds: float, *names: str) -> list[str]:
    """The command of a process whose child takes so many seconds to end; `names` are further arguments of the child."""
    return [sys.executable, "-c", RUNNER, textwrap.dedent(RANK), str(folder), str(seconds), *names]


@pytest.fixture
def no_one_left() -> Iterator[None]:
    before = psutil.Process().children(recursive=True)
    yield
    left = [one for one in psutil.Process().children(recursive=True) if one not in before]
    for one in left:
        one.kill()
    assert left == []


def wait_for(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until, f"{path.name} did not come"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("names", "says"),
    [([launch.WORKER], [FINISHING]), (["--function_to_execute", "synthesize_data"], [AWAITING]), ([], [])],
    ids=["training", "asking", "another task"],
)
@pytest.mark.usefixtures("no_one_left")
def test_training_and_asking_alone_have_the_time_to_bring_home_their_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], says: list[str]
) -> None:
    monkeypatch.setattr(processes, "_GRACE", 0.3)
    runner = subprocess.Popen(tree(tmp_path, 1.5, *names), start_new_session=True)
    wait_for(tmp_path / "ready")
    told: list[str] = []
    started = time.monotonic()
    end_tree(runner, tell=told.append)
    assert time.monotonic() - started < 10, "nobody waits longer than it takes"
    assert (tmp_path / "checkpoint").exists() == bool(names)
    assert told == says
    assert runner.returncode == -signal.SIGTERM


@pytest.mark.usefixtures("no_one_left")
def test_training_that_does_not_end_is_killed_when_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "TRAINING_GRACE", 0.5)
    runner = subprocess.Popen(tree(tmp_path, 60, launch.WORKER), start_new_session=True)
    wait_for(tmp_path / "ready")
    end_tree(runner)
    assert not (tmp_path / "checkpoint").exists()


def test_training_has_as_long_as_torchrun_gives_it() -> None:
    given = launch._environment("cpu", 1)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]
    assert float(given) == processes.TRAINING_GRACE >= 60


@pytest.mark.usefixtures("no_one_left")
def test_a_second_interrupt_kills_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), *tree(tmp_path, 60, launch.WORKER)[2:]]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    wait_for(tmp_path / "ready")
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGINT)
    assert driver.stdout.readline().strip() == FINISHING
    time.sleep(0.5)
    assert driver.poll() is None, "it did not wait"
    driver.send_signal(signal.SIGINT)
    said, _ = driver.communicate(timeout=20)
    assert (said.strip(), driver.returncode) == ("ended", 0)
    assert len(family) == 2
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)
    assert not (tmp_path / "checkpoint").exists()


def test_the_line_stands_on_either_screen(capsys: pytest.CaptureFixture[str]) -> None:
    PlainScreen().say(FINISHING)
    assert capsys.readouterr().out == f"{FINISHING}\n"
    written = io.StringIO()
    live = LiveScreen(Console(file=written, width=100, highlight=False))
    live.update(Board())
    live.say("[yellow]as it is")
    live.close(Board())
    assert "[yellow]as it is" in written.getvalue().splitlines()
