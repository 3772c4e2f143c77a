"""What a task tells the person who watches it.

A task's output is piped, so it has no terminal to draw on. It appends JSON lines to the file named by
`NVEMBED_PROGRESS` and `nvembed run` draws them. Without that file, work of more than two seconds draws one line on a
terminal's standard error, or, where there is none, goes to the log every ten seconds.

Lines: `{"time", "task", "event": "start"|"progress"|"note"|"done"|"error", "label", "done", "total", "text", "user"}`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
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
    """A labelled count from 0 to `total` (None: not known); `update` may be called as often as one likes."""

    def __init__(self, label: str, total: int | None = None) -> None:
        self.label, self.total, self.done, self.text = label, total, 0, ""
        self._last_emit = 0.0
        self._started = self._last_log = time.monotonic()
        self._has_drawn = False
        self._may_draw = not os.environ.get(ENVIRONMENT) and sys.stderr is not None and sys.stderr.isatty()

    def update(self, done: int, text: str = "") -> None:
        """Set the count; written at most four times a second, and always at the end."""
        self.done, self.text = done, text
        now = time.monotonic()
        if now - self._last_emit >= 0.25 or done == self.total:
            self._last_emit = now
            emit("progress", label=self.label, done=done, total=self.total, text=text)
            if self._may_draw:
                self._draw(now - self._started)
        if now - self._last_log >= 10 and not self._may_draw:
            self._last_log = now
            logger.info("%s: %s/%s %s", self.label, done, self.total or "?", text)

    def close(self) -> None:
        """The end of work whose total was not known; draws nothing more."""
        if self.done != self.total:
            self.total = self.done
            self.update(self.done, self.text)

    def _draw(self, seconds: float) -> None:
        """One line, drawn over and over and wiped at the end."""
        if self.done == self.total:
            line = ""
        elif seconds >= 2:
            line = f"{self.label} {self.done}/{self.total or '?'}  {self.done / seconds:.0f}/s  {self.text}".rstrip()
        else:
            return
        if line or self._has_drawn:
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()
        self._has_drawn = bool(line)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` and report how far it has come."""
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    progress = Progress(label, total)
    for count, item in enumerate(items, 1):
        yield item
        progress.update(count)
