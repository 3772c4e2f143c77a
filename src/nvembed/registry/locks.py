"""One at a time: whoever changes who is champion holds the model's lock meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from nvembed.core.digests import digest_text
from nvembed.core.state import hold, state_folder
from nvembed.tracking.store import sqlite_file, tracking_uri

Held = Callable[[], None]  # called just before a change: raises if the lock was lost meanwhile
Lock = Callable[[str], AbstractContextManager[Held]]  # the name of what is locked → to be held


@contextmanager
def file_lock(name: str) -> Iterator[Held]:
    """Hold what `name` names in this registry, for all processes that share this state folder."""
    file = sqlite_file(tracking_uri() or "")
    with hold(state_folder("registry", digest_text(f"{file or tracking_uri()} {name}"))):
        yield _kept


def _kept() -> None:
    """The operating system keeps a file's lock as long as its holder lives."""
