"""Errors for the user are one line; progress and metrics are lines that any number of writers may append."""

from __future__ import annotations

import io
import json
import multiprocessing
import sys
import time
from pathlib import Path

import pytest

from nvembed.core.errors import UserError
from nvembed.core.metrics import log_metrics
from nvembed.core.progress import Progress, emit, note, track


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "progress.jsonl"
    monkeypatch.setenv("NVEMBED_PROGRESS", str(file))
    monkeypatch.setenv("NVEMBED_TASK", "train")
    return lambda: [json.loads(line) for line in file.read_text().splitlines()]


def test_a_users_error_is_one_line() -> None:
    assert str(UserError("data.path:\n   no such   file\n")) == "data.path: no such file"


def test_progress_ends_with_the_last_count(events) -> None:
    assert list(track(range(1000), "reading")) == list(range(1000))
    last = events()[-1]
    assert (last["event"], last["task"], last["done"], last["total"]) == ("progress", "train", 1000, 1000)
    assert len(events()) < 50  # a thousand updates in no time are not a thousand lines


def test_a_note_is_kept(events) -> None:
    note("3 queries fell short")
    assert events()[-1]["text"] == "3 queries fell short"


def test_progress_without_a_watcher_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVEMBED_PROGRESS", raising=False)
    Progress("x", 2).update(2)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_long_work_draws_one_line_on_a_terminal_and_wipes_it_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVEMBED_PROGRESS", raising=False)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    known, unknown = Progress("encoding", 9), Progress("reading")
    clock[0] = 101.0
    known.update(2)
    assert terminal.getvalue() == ""
    for clock[0], done in ((104.0, 8), (104.1, 9)):
        known.update(done)
        unknown.update(done)
    unknown.close()
    wiped = "\r\033[K"
    assert terminal.getvalue() == f"{wiped}encoding 8/9  2/s{wiped}reading 8/?  2/s{wiped}{wiped}"


@pytest.mark.parametrize("watched", [True, False])
def test_nothing_is_drawn_where_there_is_no_terminal_or_another_draws(monkeypatch, tmp_path, watched) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Terminal() if watched else io.StringIO())
    monkeypatch.setenv("NVEMBED_PROGRESS", str(tmp_path / "progress.jsonl") if watched else "")
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = Progress("encoding", 9)
    clock[0] = 110.0
    progress.update(5)
    assert stream.getvalue() == ""


def test_progress_never_ends_the_work_it_describes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVEMBED_PROGRESS", str(tmp_path / "no" / "such" / "folder"))
    note("still going")


def _write_many(number: int) -> None:
    for count in range(200):
        emit("note", text=f"{number}:{count}:" + "x" * 500)


def test_writers_do_not_tear_each_others_lines(events) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(_write_many, range(4))
    seen = {tuple(event["text"].split(":")[:2]) for event in events()}
    assert seen == {(str(number), str(count)) for number in range(4) for count in range(200)}


def test_metrics_are_lines_with_their_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVEMBED_METRICS", str(tmp_path / "metrics.jsonl"))
    log_metrics({"loss": 2}, 1)
    log_metrics({"loss": 1.5}, 2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["metrics"]) for line in lines] == [(1, {"loss": 2.0}), (2, {"loss": 1.5})]
