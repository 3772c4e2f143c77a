"""Workers die with the run that started them.

`nvembed run` names itself in `NVEMBED_PARENT` (`pid:start time`). Every process that may write state calls
`tie_to_parent()`: a thread watches the named process and ends this one at once when it is gone. A signal on the
direct parent's death would not do, since a shell and a launcher stand between the two. What has to be brought home
first, as answers that are paid for, asks for a moment with `before_the_end`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

ENVIRONMENT = "NVEMBED_PARENT"
LAST_MOMENT = 60.0
"""Seconds that what is called before the end may take."""
_last_acts: list[Callable[[], None]] = []
logger = logging.getLogger(__name__)


def process_identity(pid: int) -> str | None:
    """`pid:start time` of a living process, None for one that is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return _identity_without_proc(pid)
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{pid}:{fields[19]}"


def _identity_without_proc(pid: int) -> str | None:
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return f"{pid}:"


def announce_self() -> None:
    """Name this process as the one whose death ends its workers."""
    os.environ[ENVIRONMENT] = process_identity(os.getpid()) or f"{os.getpid()}:"


def parent_is_gone() -> bool:
    """True if `NVEMBED_PARENT` names a process that no longer lives."""
    named = os.environ.get(ENVIRONMENT)
    return bool(named) and process_identity(int(str(named).split(":")[0])) != named


def tie_to_parent(*, every: float = 0.5) -> None:
    """End this process as soon as the process in `NVEMBED_PARENT` is gone. Does nothing if none is named."""
    if not os.environ.get(ENVIRONMENT):
        return

    def watch() -> None:
        while not parent_is_gone():
            time.sleep(every)
        for act in list(_last_acts):
            try:
                act()
            except Exception:
                logger.exception("what was to be done before the end failed")
        os._exit(1)

    threading.Thread(target=watch, name="nvembed-lifeline", daemon=True).start()


@contextlib.contextmanager
def before_the_end(act: Callable[[], None]) -> Iterator[None]:
    """Within this, `act` is called, in another thread, before this process ends with its parent.

    It returns within `LAST_MOMENT`: a run that is started anew waits for it.
    """
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Make the first SIGTERM an exception here (SystemExit), so that work ends in order. Only a main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # the end has begun
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
