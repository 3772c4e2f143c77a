"""What is known of a run's tasks, put together from the events in the progress file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["running", "done", "cached", "failed"]
_ENDED: dict[str, State] = {"finished": "done", "cached": "cached", "failed": "failed"}


@dataclass
class Task:
    """One task as the screen shows it. Times are seconds since the epoch."""

    name: str
    started: float
    state: State = "running"
    ended: float | None = None
    label: str = ""
    done: float = 0
    total: float | None = None
    text: str = ""
    reason: str = ""

    def seconds(self, now: float | None = None) -> float:
        """How long it ran, or has been running."""
        return max(0.0, (self.ended or now or time.time()) - self.started)

    def progress(self) -> str:
        """`encoding 120/400 (loss 0.41)`, or nothing."""
        if not self.label:
            return ""
        count = f" {self.done:g}/{self.total:g}" if self.total else (f" {self.done:g}" if self.done else "")
        return f"{self.label}{count}" + (f"  {self.text}" if self.text else "")


@dataclass
class TaskError:
    """What a task said when it failed; `user`: the user's input is wrong."""

    task: str
    text: str
    user: bool


@dataclass
class Board:
    """All tasks of a run in the order in which they started, with their notes and errors."""

    tasks: dict[str, Task] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    errors: list[TaskError] = field(default_factory=list)

    def apply(self, event: dict[str, Any]) -> None:
        """Take in one event. Events of unknown kinds are left alone: a newer task may know more."""
        name, kind, when = str(event.get("task") or "pipeline"), event.get("event"), float(event.get("time", 0))
        if kind == "note":
            self.notes.append((name, str(event.get("text", ""))))
        elif kind == "error":
            self.errors.append(TaskError(name, str(event.get("text", "")), bool(event.get("user"))))
        elif kind == "start" and (event.get("runner") or name not in self.tasks):
            self.tasks[name] = Task(name, when)
        elif kind == "progress":
            task = self.tasks.setdefault(name, Task(name, when))
            task.label, task.text = str(event.get("label") or ""), str(event.get("text") or "")
            task.done, task.total = event.get("done") or 0, event.get("total")
        elif kind in _ENDED:
            task = self.tasks.setdefault(name, Task(name, when))
            task.state, task.ended, task.reason = _ENDED[kind], when, str(event.get("text") or "")

    def end_running(self) -> None:
        """The run is over: what was still running did not succeed."""
        for task in self.tasks.values():
            if task.state == "running":
                task.state, task.ended = "failed", time.time()

    def failed(self) -> list[Task]:
        """Tasks that failed, first one first."""
        return [task for task in self.tasks.values() if task.state == "failed"]


class Tail:
    """Reads what is new in a file of JSON lines; a line still being written is left for the next time."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset = path, 0

    def events(self) -> Iterator[dict[str, Any]]:
        """New events since the last call."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        for line in data[:whole].splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event
