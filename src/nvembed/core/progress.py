"""What a task tells the person who watches it.

A task's output is piped, so it has no terminal to draw on. It appends JSON lines to the file named by
`NVEMBED_PROGRESS` and `nvembed run` draws them. Without that file, progress goes to the log every ten seconds.

Lines: `{"time", "task", "event": "start"|"progress"|"note"|"done"|"error", "label", "done", "total", "text", "user"}`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")
ENVIRONMENT = "NVEMBED_PROGRESS"
TASK = "NVEMBED_TASK"


def emit(event: str, **fields: Any) -> None:
    """Append one event to the progress file, if there is one. One `write` a line: writers do not tear each other's."""
    path = os.environ.get(ENVIRONMENT)
    if not path:
        return
    record = {"time": time.time(), "task": os.environ.get(TASK, ""), "event": event, **fields}
    line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:  # progress must never end the work it describes
        logger.debug("progress not written: %s", error)


def note(text: str) -> None:
    """Tell the watcher one thing worth keeping on the screen (a warning, what was held out)."""
    logger.info("%s", text)
    emit("note", text=text)


class Progress:
    """A labelled count from 0 to `total`; `update` may be called as often as one likes."""

    def __init__(self, label: str, total: int | None = None) -> None:
        self.label, self.total, self.done, self.text = label, total, 0, ""
        self._last_emit = 0.0
        self._last_log = time.monotonic()

    def update(self, done: int, text: str = "") -> None:
        """Set the count; written at most four times a second, and always at the end."""
        self.done, self.text = done, text
        now = time.monotonic()
        if now - self._last_emit >= 0.25 or done == self.total:
            self._last_emit = now
            emit("progress", label=self.label, done=done, total=self.total, text=text)
        if now - self._last_log >= 10:
            self._last_log = now
            logger.info("%s: %s/%s %s", self.label, done, self.total or "?", text)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` and report how far it has come."""
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    progress = Progress(label, total)
    for count, item in enumerate(items, 1):
        yield item
        progress.update(count)
