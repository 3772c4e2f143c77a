"""Ending a run's processes, and waiting for those a killed run left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core import lifeline
from nvembed.core.progress import ENVIRONMENT as PROGRESS
from nvembed.training.launch import GRACE, WORKER

if TYPE_CHECKING:
    import psutil

_GRACE = 5.0
_SILENCE = 2.0
TRAINING_GRACE = float(GRACE)
"""Seconds for ranks to end the step they are in, which may itself take most of a minute on a CPU, and to write a
checkpoint; torchrun gives them as long. Killed sooner they would lose all since their last checkpoint."""
FINISHING = "finishing the step and writing a checkpoint; press Ctrl-C again to stop at once"
AWAITING = "waiting for the answers under way, which are paid for; press Ctrl-C again to stop at once"
_ASKS = "synthesize_data"  # stands in the command line of the task that asks language models


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Within this, SIGTERM raises KeyboardInterrupt, so that both end a run in the same orderly way."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_tree(process: subprocess.Popen[bytes], *, tell: Callable[[str], None] | None = None) -> None:
    """End a process and all its descendants: asked first, killed after five seconds, or a minute if some are training
    or have asked language models for what is paid for.

    An interrupt (KeyboardInterrupt) meanwhile kills them at once. `tell` is told in a line if it may take a minute.
    """
    import psutil

    if process.poll() is not None:
        return  # it was waited for, so its number may be another's by now; what it left behind ends with us (lifeline)
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        tree = [root, *root.children(recursive=True)]
        alive = tree[1:]
        with contextlib.suppress(KeyboardInterrupt):
            training, asking = (any(_names(one, word) for one in tree) for word in (WORKER, _ASKS))
            if (training or asking) and tell is not None:
                tell(FINISHING if training else AWAITING)
            for one in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs(alive, timeout=TRAINING_GRACE if training or asking else _GRACE)
        for one in [*alive, root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def _names(process: psutil.Process, word: str) -> bool:
    """Whether a word stands in a process's command line."""
    import psutil

    try:
        return word in process.cmdline()
    except psutil.Error:
        return False


def wait_for_leftovers(
    output_dir: Path, *, timeout: float = lifeline.LAST_MOMENT + 10, tell: Callable[[str], None] | None = None
) -> list[int]:
    """Wait until the tasks of a killed run in `output_dir` have ended, which they do by themselves: nearly all at once,
    one that waits for answers within a minute. `tell` is told in a line if it takes longer than two seconds.

    Returns:
        Process ids of those that still live after `timeout` seconds.
    """
    started, said = time.monotonic(), False
    while (alive := _orphans(output_dir)) and (waited := time.monotonic() - started) < timeout:
        if tell is not None and not said and waited > _SILENCE:
            tell("waiting for the tasks of a killed run to bring home what they have under way")
            said = True
        time.sleep(0.2)
    return alive


def _orphans(output_dir: Path) -> list[int]:
    """Processes whose progress file lies in `output_dir` and whose run is gone."""
    prefix = f"{PROGRESS}={output_dir.absolute()}{os.sep}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(one.startswith(prefix) for one in variables) and _parent_is_gone(variables):
            found.append(int(entry.parent.name))
    return [pid for pid in found if pid != os.getpid() and lifeline.process_identity(pid) is not None]


def _parent_is_gone(variables: list[bytes]) -> bool:
    prefix = f"{lifeline.ENVIRONMENT}=".encode()
    named = next((one[len(prefix) :].decode() for one in variables if one.startswith(prefix)), "")
    return bool(named) and lifeline.process_identity(int(named.split(":")[0])) != named
