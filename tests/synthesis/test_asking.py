"""Asking an endpoint: faults are mended or told, nothing is asked for twice, caps hold, the key stays inside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chat_server import KEY, ChatServer, chat_server

from nvembed.core.errors import UserError
from nvembed.core.lifeline import process_identity
from nvembed.synthesis.answers import FILE, Answer, Answers, Spent
from nvembed.synthesis.asking import Asker, make_request
from nvembed.synthesis.budget import Budget
from nvembed.synthesis.documents import read_documents
from nvembed.synthesis.endpoint import retry_after
from nvembed.synthesis.from_documents import passage_request
from nvembed.synthesis.gathering import NOT_ASKED, UNUSABLE, Gathered, gather
from nvembed.synthesis.prompts import document_prompt
from nvembed.synthesis.synthesize import _folder

if TYPE_CHECKING:
    from synthetic_documents import Make

    from nvembed.recipe import Synthesis

PASSAGES = 24


def write(section: Synthesis) -> tuple[Gathered, Asker]:
    """All queries for all passages, as training data."""
    passages = read_documents(section).passages
    asker = Asker(section, Answers(_folder(section)))
    return gather(section, asker, passages, {passage.id: "train" for passage in passages}), asker


def lines(section: Synthesis) -> list[dict]:
    """What is kept of requests that came to an end."""
    kept = [json.loads(line) for line in (_folder(section) / FILE).read_text(encoding="utf-8").splitlines()]
    return [line for line in kept if line["state"] == "ended"]


@pytest.mark.parametrize("fault", ["429", "500", "html", "broken-json", "half", "empty", "cut", "no-json", "slow"])
def test_a_fault_that_passes_costs_no_example(fault: str, section: Make, server: ChatServer) -> None:
    server.faults.extend([fault] * 3)

    gathered, _ = write(section(asking={"timeout": 0.8 if fault == "slow" else 5}))

    asked_for = {candidate.passage for candidate in gathered.candidates}
    assert len(asked_for) == PASSAGES
    assert not gathered.failures
    assert sum(server.asked.values()) == PASSAGES + (0 if fault == "cut" else 3)


def test_an_answer_cut_off_gives_its_whole_queries_alone(section: Make, server: ChatServer) -> None:
    server.always = "cut"

    gathered, _ = write(section(queries={"per_passage": 3}))

    assert 0 < len(gathered.candidates) < 3 * PASSAGES
    assert all(candidate.query.endswith("?") for candidate in gathered.candidates)


def test_a_rate_limit_is_waited_out_as_long_as_the_server_says(section: Make, server: ChatServer) -> None:
    server.faults.append("429")
    server.retry_after = "1"

    write(section(asking={"concurrency": 1}))

    assert server.times[1] - server.times[0] >= 1.0
    assert server.times[3] - server.times[2] < 0.5


def test_retry_after_is_read_in_seconds_milliseconds_and_as_a_date() -> None:
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))

    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert 55 < (retry_after({"retry-after": soon}) or 0) <= 60
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_a_server_that_goes_away_for_a_while_is_waited_for(section: Make) -> None:
    done: list[Gathered] = []
    with chat_server(delay=0.02) as first:
        asking = threading.Thread(target=lambda: done.append(write(section(url=first.url))[0]))
        asking.start()
        while sum(first.answered.values()) < 6:
            time.sleep(0.01)
        first.gone = True
    time.sleep(0.7)
    with chat_server(port=first.port) as second:
        asking.join(timeout=20)

    assert {candidate.passage for candidate in done[0].candidates} and not done[0].failures
    assert len({candidate.passage for candidate in done[0].candidates}) == PASSAGES
    assert not set(first.answered) & set(second.asked), "what was answered before is not asked for again"


def test_a_server_that_stays_away_ends_the_run_in_one_line(section: Make) -> None:
    with chat_server() as gone:
        url = gone.url

    with pytest.raises(UserError, match=r"no answer for .*cannot be reached.*asking\.patience"):
        write(section(url=url, asking={"patience": 0.6}))


def test_a_wrong_key_ends_it_at_once(section: Make, server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_KEY", "sk-wrong-one")

    with pytest.raises(UserError, match=r"refuses the key in PLANTED_KEY \(status 401\)") as told:
        write(section())

    assert "sk-wrong-one" not in str(told.value)
    assert sum(server.asked.values()) <= 4, "no more than were under way"


def test_no_key_is_said(section: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLANTED_KEY")

    with pytest.raises(UserError, match=r"refuses a request without a key; PLANTED_KEY is not set"):
        write(section())


def test_a_key_may_lie_in_a_mounted_secret(
    section: Make, server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLANTED_KEY")
    (tmp_path / "PLANTED_KEY").write_text(f"{KEY}\n", encoding="utf-8")
    monkeypatch.setenv("NVEMBED_SECRETS", str(tmp_path))

    assert len(write(section())[0].candidates) == 2 * PASSAGES


def test_an_unknown_model_is_told_with_those_there_are(section: Make) -> None:
    with pytest.raises(UserError, match=r"does not know the model 'other' \(status 404\); it serves rules-1"):
        write(section(endpoint={"model": "other"}))


def test_a_server_without_json_schema_is_found_out_once(section: Make, server: ChatServer) -> None:
    server.schema = False

    gathered, _ = write(section(asking={"concurrency": 1}))

    assert len(gathered.candidates) == 2 * PASSAGES
    assert sum("response_format" in body for body in server.bodies) == 1


def test_a_server_with_json_schema_is_asked_by_it(section: Make, server: ChatServer) -> None:
    write(section())

    assert all(body["response_format"]["json_schema"]["schema"]["required"] == ["queries"] for body in server.bodies)


@pytest.mark.parametrize("number", [1, 3])
def test_a_small_model_is_asked_for_bare_lines(number: int, section: Make, server: ChatServer) -> None:
    asked = section(endpoint={"answers": "lines"}, queries={"per_passage": number, "languages": {"de": 1}})
    gathered, _ = write(asked)

    passages = {passage.text: passage.id for passage in read_documents(asked).passages}
    assert len(gathered.candidates) == number * PASSAGES and not gathered.failures
    for one in gathered.candidates:
        assert passages[one.positive] == one.passage and one.query.endswith("?") and one.negatives == ()
        assert one.prompt == "lines-1"
    for body in server.bodies:
        (message,) = body["messages"]
        assert "response_format" not in body and message["content"].count("in German") == number


@pytest.mark.parametrize("other", [{"paper": {"enabled": True}}, {"quality": {"judge": {"enabled": True}}}])
def test_bare_lines_serve_for_documents_alone(other: dict[str, Any], section: Make) -> None:
    with pytest.raises(ValueError, match="lines, which serves for queries on documents alone; set it to json"):
        section(endpoint={"answers": "lines"}, **other)


def test_a_passage_longer_than_the_models_context_costs_itself_alone(section: Make, server: ChatServer) -> None:
    server.faults.append("too-long")

    gathered, asker = write(section())

    assert dict(gathered.failures) == {"no answer: longer than the model's context; lower synthesis.passages.words": 1}
    assert len({candidate.passage for candidate in gathered.candidates}) == PASSAGES - 1
    assert asker.budget.spent.requests == PASSAGES - 1, "what is refused takes nothing"


def test_settings_that_the_server_refuses_end_it_in_one_line(section: Make, server: ChatServer) -> None:
    server.always = "400"

    with pytest.raises(UserError, match=r"refuses every request with status 400 .*Unsupported parameter"):
        write(section())

    assert sum(server.asked.values()) < PASSAGES


def test_an_answer_that_cannot_be_used_is_asked_for_anew_as_often_as_told(section: Make, server: ChatServer) -> None:
    server.always = "no-json"

    gathered, _ = write(section(asking={"second_tries": 2}))

    assert gathered.candidates == []
    assert dict(gathered.failures) == {UNUSABLE: PASSAGES}
    assert sum(server.asked.values()) == 3 * PASSAGES
    assert set(server.asked.values()) == {1}, "each time under another seed"


def test_as_many_requests_are_under_way_as_told(section: Make, server: ChatServer) -> None:
    server.delay = 0.05

    write(section(asking={"concurrency": 3}))

    assert server.most_at_once == 3


def test_what_is_answered_is_never_asked_for_again(section: Make, server: ChatServer) -> None:
    first, _ = write(section())
    second, asker = write(section())

    assert first.candidates == second.candidates
    assert set(server.asked.values()) == {1}
    assert "endpoints" not in vars(asker), "no client was even made"


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


def test_endpoints_share_requests_by_weight(section: Make) -> None:
    one = section()
    heavy, light = one.endpoints[0], one.endpoints[0].model_copy(update={"model": "rules-2", "weight": 0.25})
    mixed = one.model_copy(update={"endpoints": [heavy, light]})
    prompt = document_prompt("text", [], 0)

    chosen = [make_request(mixed, f"passage/{number}", prompt).endpoint for number in range(2000)]

    assert 0.17 < sum(chosen) / len(chosen) < 0.23, "a fifth, within four standard deviations"


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


@pytest.mark.parametrize("fault", ["", "500", "echo-key", "401"])
def test_the_key_is_in_no_file_no_log_and_no_error(
    fault: str, section: Make, server: ChatServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = section(asking={"patience": 0.5}, endpoint={"model": "other"} if fault == "401" else {})
    server.always = fault
    caplog.set_level("DEBUG")
    said = ""
    try:
        write(asked)
    except UserError as error:
        said = str(error)

    assert (fault in ("500", "401")) == bool(said)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in caplog.text and KEY not in said
    if fault == "echo-key":
        assert "Nothing with [key]" in (_folder(asked) / FILE).read_text(encoding="utf-8")


def test_another_prompt_model_or_seed_is_another_request(section: Make) -> None:
    one = section()
    passages = read_documents(one).passages
    keys = {passage_request(one, passage).key for passage in passages}

    assert len(keys) == PASSAGES
    for changed in (one.model_copy(update={"seed": 18}), section(endpoint={"model": "other"})):
        assert not keys & {passage_request(changed, passage).key for passage in passages}
    same = section(endpoint={"price_in": 7.0}, asking={"concurrency": 1, "retries": 0})
    assert keys == {passage_request(same, passage).key for passage in passages}
