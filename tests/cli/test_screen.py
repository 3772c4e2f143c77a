"""The screen: one line a task, whatever the order in which parallel tasks' events arrive."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from nvembed.cli.board import Board, Tail
from nvembed.cli.screen import LiveScreen, PlainScreen, clock

EVENTS = [
    {"time": 10, "task": "evaluate_base", "event": "start"},
    {"time": 10, "task": "evaluate_stage1", "event": "start", "runner": True},
    {"time": 11, "task": "evaluate_base", "event": "progress", "label": "encoding", "done": 5, "total": 20, "text": ""},
    {"time": 12, "task": "evaluate_stage1", "event": "progress", "label": "encoding", "done": 9, "total": 20},
    {"time": 13, "task": "evaluate_base", "event": "note", "text": "3 texts [cut]"},
    {"time": 14, "task": "train_stage1", "event": "cached", "runner": True},
    {"time": 75, "task": "evaluate_base", "event": "finished", "runner": True},
    {"time": 80, "task": "train_stage2", "event": "failed", "runner": True},
]


def board_of(events) -> Board:
    board = Board()
    for event in events:
        board.apply(event)
    return board


def test_events_of_parallel_tasks_go_to_their_own_lines():
    board = board_of(EVENTS)
    assert {name: task.state for name, task in board.tasks.items()} == {
        "evaluate_base": "done",
        "evaluate_stage1": "running",
        "train_stage1": "cached",
        "train_stage2": "failed",
    }
    assert board.tasks["evaluate_stage1"].progress() == "encoding 9/20"
    assert board.tasks["evaluate_base"].seconds() == 65


def test_an_event_of_an_unknown_kind_is_left_alone():
    board = board_of([*EVENTS, {"time": 90, "task": "evaluate_stage1", "event": "something new"}])
    assert board.tasks.keys() == board_of(EVENTS).tasks.keys()


def test_the_live_screen_draws_each_task_once_with_time_and_progress_and_keeps_notes():
    written = io.StringIO()
    screen = LiveScreen(Console(file=written, width=100, force_terminal=False))
    screen.close(board_of(EVENTS))
    lines = written.getvalue().splitlines()
    assert any(line.startswith("note evaluate_base: 3 texts [cut]") for line in lines)
    for name, part in (
        ("evaluate_base", "1m05s"),
        ("evaluate_stage1", "encoding 9/20"),
        ("train_stage1", "cached"),
        ("train_stage2", "FAILED"),
    ):
        (line,) = [one for one in lines if f" {name} " in one and not one.startswith("note")]
        assert part in line


def test_the_live_screen_leaves_the_terminal_alone_until_there_is_something_to_draw():
    written = io.StringIO()
    screen = LiveScreen(Console(file=written, width=100, force_terminal=True))
    assert written.getvalue() == ""
    screen.update(Board())
    screen.close(Board())
    hides, shows = "\x1b[?25l", "\x1b[?25h"
    assert written.getvalue().rindex(hides) < written.getvalue().rindex(shows)


def test_plain_lines_come_on_start_on_notes_now_and_then_and_at_the_end(capsys):
    screen, board = PlainScreen(every=0), Board()
    for event in EVENTS:
        board.apply(event)
        screen.update(board)
    screen.close(board)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "evaluate_base: started"
    assert any("encoding 5/20" in line for line in lines)
    assert lines.count("evaluate_base: note: 3 texts [cut]") == 1
    assert lines.count("evaluate_base: done in 1m05s") == 1
    assert lines.count("train_stage1: cached") == 1


def test_plain_progress_is_not_repeated_within_its_interval(capsys):
    screen, board = PlainScreen(every=60), Board()
    for event in EVENTS[:4]:
        board.apply(event)
        screen.update(board)
    assert "encoding" not in capsys.readouterr().out


def test_a_line_that_is_still_being_written_waits_for_its_end(tmp_path):
    file = tmp_path / "progress.jsonl"
    tail = Tail(file)
    assert list(tail.events()) == []
    whole = json.dumps(EVENTS[0])
    file.write_text(whole + "\nnot json\n" + whole[:10])
    assert list(tail.events()) == [EVENTS[0]]
    with file.open("a") as stream:
        stream.write(whole[10:] + "\n")
    assert list(tail.events()) == [EVENTS[0]]


@pytest.mark.parametrize(("seconds", "shown"), [(7.9, "7s"), (125, "2m05s"), (3725, "1h02m")])
def test_times_are_short(seconds, shown):
    assert clock(seconds) == shown
