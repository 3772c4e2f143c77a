"""Caps hold over several runs, and what a kill or a time-out took counts as spent."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chat_server import ChatServer
from synthesis_support import PASSAGES, lines, write

from nvembed.synthesis.answers import FILE, Answer, Answers, Spent
from nvembed.synthesis.budget import Budget
from nvembed.synthesis.gathering import NOT_ASKED

if TYPE_CHECKING:
    from synthetic_documents import Make


@pytest.mark.parametrize(
    ("caps", "holds"),
    [
        ({"max_requests": 7}, lambda spent: spent.requests <= 7),
        ({"max_tokens": 6000}, lambda spent: spent.tokens <= 6000),
        ({"max_cost": 0.006}, lambda spent: spent.cost <= 0.006),
    ],
)
def test_caps_hold_over_several_runs(caps: dict, holds, section: Make, server: ChatServer) -> None:  # type: ignore[no-untyped-def]
    gathered, asker = write(section(caps=caps))
    after_one = sum(server.asked.values())
    _, again = write(section(caps=caps))

    assert 0 < after_one < PASSAGES
    assert gathered.failures[NOT_ASKED] == PASSAGES - after_one
    assert asker.budget.reached is not None and next(iter(caps)) in asker.budget.reached
    assert holds(again.budget.spent) and again.budget.spent.requests == sum(server.answered.values())


def test_what_is_counted_is_what_the_server_counted(section: Make, server: ChatServer) -> None:
    _, asker = write(section())

    kept = lines(section())
    sent, answered = (sum(line[name] for line in kept) for name in ("sent", "answered"))
    assert asker.budget.spent.requests == PASSAGES
    assert asker.budget.spent.tokens == sent + answered
    assert asker.budget.spent.cost == pytest.approx((sent * 1.0 + answered * 4.0) / 1e6)


def test_a_time_out_counts_as_spent(section: Make, server: ChatServer) -> None:
    server.faults.append("slow")

    _, asker = write(section(asking={"timeout": 0.8}))

    assert asker.budget.spent.requests == PASSAGES + 1


def test_a_budget_waits_for_what_is_under_way_before_it_says_no() -> None:
    from nvembed.recipe.synthesis import Caps

    budget = Budget(Caps(max_tokens=100), Spent())
    assert budget.set_aside(Spent(1, 80))
    allowed: list[bool] = []
    waiting = threading.Thread(target=lambda: allowed.append(budget.set_aside(Spent(1, 80))))
    waiting.start()
    time.sleep(0.05)
    assert not allowed
    budget.settle(Spent(1, 80), Spent(1, 15))
    waiting.join(timeout=5)

    assert allowed == [True]
    budget.settle(Spent(1, 80), Spent(1, 80))
    assert not budget.set_aside(Spent(1, 6)) and budget.reached == "synthesis.caps.max_tokens = 100"


def test_a_torn_last_line_is_dropped_and_a_damaged_one_passed_over(tmp_path: Path) -> None:
    answers = Answers(tmp_path)
    for key in ("a", "b"):
        answers.add(Answer(key, "text", "m", 1, 2, None))
    with (tmp_path / FILE).open("ab") as stream:
        stream.write(b'no json\n{"key": "c", "text": "ha')

    reopened = Answers(tmp_path)
    reopened.add(Answer("d", "text", "m", 1, 2, None))

    assert Answers(tmp_path).keys() == {"a", "b", "d"}
    assert Answers(tmp_path).spent({"a", "d"}) == Spent(2, 6, 0.0)


def test_requests_that_kills_ended_count_as_spent(tmp_path: Path) -> None:
    sent = Answer("a", None, "m", 10, 0, 0.5, "under way")
    for _ in range(2):  # two processes that were killed while they waited
        Answers(tmp_path).add(sent)
    third = Answers(tmp_path)
    third.add(sent)
    third.add(Answer("a", None, "m", 0, 0, 0.0, "took nothing"))
    third.add(sent)
    third.add(Answer("a", "text", "m", 1, 2, 0.25))

    assert third.spent({"a"}) == Answers(tmp_path).spent({"a"}) == Spent(3, 23, 1.25)
    assert third.spent({"b"}) == Spent()
