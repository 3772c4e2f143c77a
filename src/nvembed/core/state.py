"""State that outlives a task: checkpoints, embedding caches, metric spools.

It lies in `$NVEMBED_STATE/<kind>/<digest>`: beside the outputs on a laptop, on a mounted volume on a cluster. A folder
in use is held by a lock on a file in it. The operating system drops the lock when the holder dies, however it dies,
and holders die with the run that started them (`core.lifeline`), so whoever finds a lock taken can simply wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from nvembed.core.errors import UserError

logger = logging.getLogger(__name__)


def state_root() -> Path:
    """`$NVEMBED_STATE`, or `nvembed-out/state` under the working folder."""
    return Path(os.environ.get("NVEMBED_STATE") or Path.cwd() / "nvembed-out" / "state")


def state_folder(kind: str, digest: str) -> Path:
    """The folder of one piece of state, made if it is missing. `digest` covers section, inputs and code."""
    folder = state_root() / kind / digest[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"NVEMBED_STATE: cannot write {folder} ({error.strerror}); name a writable folder") from error
    return folder


@contextlib.contextmanager
def hold(folder: Path, *, timeout: float | None = None) -> Iterator[None]:
    """Hold `folder` for this process alone; wait while another living process holds it.

    Raises TimeoutError after `timeout` seconds (None: wait as long as it takes).
    """
    started = time.monotonic()
    with (folder / ".lock").open("a+", encoding="utf-8") as stream:
        said = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if timeout is not None and time.monotonic() - started > timeout:
                    raise TimeoutError(f"{folder} is held by another process") from None
                if not said:
                    stream.seek(0)
                    logger.info("waiting for process %s, which holds %s", stream.read().strip() or "?", folder)
                    said = True
                time.sleep(0.2)
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)
