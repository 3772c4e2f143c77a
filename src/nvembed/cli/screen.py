"""What a person watching a run sees: one line a task with its state, its time and the task's own progress."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import click

from nvembed.cli.board import Board, Task

if TYPE_CHECKING:
    from rich.console import Console

_MARKS = {"running": "…", "done": "✓", "cached": "=", "failed": "✗"}
_WORDS = {"running": "running", "done": "done", "cached": "cached", "failed": "FAILED"}
_STYLES = {"running": "cyan", "done": "green", "cached": "dim", "failed": "bold red"}


class Screen(Protocol):
    """Draws a board."""

    def update(self, board: Board) -> None:
        """Draw what changed."""

    def say(self, text: str) -> None:
        """Show a line that stays."""

    def close(self, board: Board) -> None:
        """Draw the last state and give the terminal back."""


def make_screen(*, plain: bool) -> Screen:
    """Live lines on a terminal, plain lines anywhere else."""
    return PlainScreen() if plain else LiveScreen()


def clock(seconds: float) -> str:
    """`7s`, `2m05s`, `1h02m`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class PlainScreen:
    """A line when a task starts and ends, each note, and its progress every fifteen seconds."""

    def __init__(self, every: float = 15.0) -> None:
        self._every = every
        self._states: dict[str, str] = {}
        self._last: dict[str, float] = {}
        self._notes = 0

    def update(self, board: Board) -> None:
        for task in list(board.tasks.values()):
            before = self._states.get(task.name)
            if before != task.state:
                self._states[task.name] = task.state
                self._changed(task)
            elif task.state == "running" and time.monotonic() - self._last[task.name] >= self._every:
                self._last[task.name] = time.monotonic()
                if task.progress():
                    self._line(task.name, f"{clock(task.seconds())}  {task.progress()}")
        for name, text in board.notes[self._notes :]:
            self._line(name, f"note: {text}")
        self._notes = len(board.notes)

    def say(self, text: str) -> None:
        click.echo(text)

    def close(self, board: Board) -> None:
        self.update(board)

    def _changed(self, task: Task) -> None:
        self._last[task.name] = time.monotonic()
        if task.state == "running":
            self._line(task.name, "started")
        elif task.state == "cached":
            self._line(task.name, "cached")
        else:
            self._line(task.name, f"{_WORDS[task.state]} in {clock(task.seconds())}")

    def _line(self, name: str, text: str) -> None:
        click.echo(f"{name}: {text}")


class LiveScreen:
    """A table that is drawn anew; notes scroll by above it."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=False, vertical_overflow="visible")
        self._notes = 0

    def update(self, board: Board) -> None:
        if not self._live.is_started:  # not before: a run that is refused at once must find the terminal as it was
            self._live.start()
        for name, text in board.notes[self._notes :]:
            self._console.print(f"[yellow]note[/] {_escape(name)}: {_escape(text)}")
        self._notes = len(board.notes)
        self._live.update(self._table(board), refresh=True)

    def say(self, text: str) -> None:
        self._console.print(_escape(text))

    def close(self, board: Board) -> None:
        self.update(board)
        self._live.stop()

    def _table(self, board: Board) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for _ in range(3):
            table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for task in board.tasks.values():
            style = _STYLES[task.state]
            spent = "" if task.state == "cached" else clock(task.seconds())
            detail = task.progress() if task.state == "running" else _WORDS[task.state]
            table.add_row(Text(_MARKS[task.state], style), Text(task.name, style), Text(spent), Text(detail, "dim"))
        return table


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
