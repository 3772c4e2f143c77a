"""A run that is ended in the middle, and what is asked for when it is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from chat_server import ChatServer
from synthesis_support import PASSAGES, lines, write

from nvembed.core.lifeline import process_identity

if TYPE_CHECKING:
    from synthetic_documents import Make

    from nvembed.recipe import Synthesis


CHILD = """
    import sys
    from nvembed.core.lifeline import tie_to_parent
    from nvembed.recipe import Synthesis
    from nvembed.synthesis.synthesize import _answers
    from nvembed.synthesis.asking import Asker
    from nvembed.synthesis.documents import read_documents
    from nvembed.synthesis.gathering import gather
    tie_to_parent()
    section = Synthesis.model_validate_json(sys.argv[1])
    passages = read_documents(section).passages
    with _answers(section) as answers:
        gather(section, Asker(section, answers), passages, {one.id: "train" for one in passages})
"""


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def stopped_in_the_middle(section: Synthesis, server: ChatServer, **environment: str) -> subprocess.Popen[bytes]:
    """A process that asks, four requests of which are at the server without an answer; all else is on disk."""
    command = [sys.executable, "-c", textwrap.dedent(CHILD), section.model_dump_json()]
    server.delay = 0.05
    child = subprocess.Popen(command, env={**os.environ, **environment})
    until(lambda: sum(server.answered.values()) >= 9 or child.poll() is not None)
    server.open.clear()
    until(lambda: server.at_once == 4 and len(lines(section)) == sum(server.answered.values()) == server.seen - 4)
    assert 9 <= len(lines(section)) < PASSAGES - 4
    return child


@pytest.mark.parametrize("end", ["interrupt", "terminate", "death of the run"])
def test_ended_in_the_middle_it_asks_for_nothing_twice(end: str, section: Make, server: ChatServer) -> None:
    asked, run = section(), subprocess.Popen(["sleep", "60"])
    child = stopped_in_the_middle(asked, server, NVEMBED_PARENT=process_identity(run.pid) or "")
    if end == "death of the run":
        run.kill()
        run.wait()
        time.sleep(1.5)  # it is noticed
    else:
        child.send_signal(signal.SIGINT if end == "interrupt" else signal.SIGTERM)
        time.sleep(0.2)
    server.open.set()
    assert child.wait(timeout=30) != 0
    run.kill()
    run.wait()

    assert len(lines(asked)) == len(server.asked) < PASSAGES, "what was under way is kept, and no more was asked"
    _, asker = write(asked)
    assert set(server.asked.values()) == {1} and len(server.asked) == PASSAGES
    assert asker.budget.spent.requests == PASSAGES


def test_killed_itself_it_asks_again_for_what_was_under_way_and_counts_it(section: Make, server: ChatServer) -> None:
    asked = section()
    child = stopped_in_the_middle(asked, server)
    kept = {line["key"] for line in lines(asked)}
    under_way = server.seen - sum(server.answered.values())
    child.kill()
    child.wait()
    server.open.set()
    until(lambda: server.at_once == 0)
    _, asker = write(asked)

    twice = [number for number in server.asked.values() if number > 1]
    assert twice == [2] * under_way == [2] * 4
    assert {line["key"] for line in lines(asked)} > kept and len(lines(asked)) == PASSAGES
    assert asker.budget.spent.requests == server.seen == PASSAGES + 4, "what was lost was worked on, and counts"
