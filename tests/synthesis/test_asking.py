"""Asking an endpoint: faults are mended or told, nothing answered is asked for twice, the key stays inside."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chat_server import KEY, ChatServer, chat_server
from synthesis_support import PASSAGES, write

from nvembed.core.errors import UserError
from nvembed.synthesis.answers import FILE
from nvembed.synthesis.asking import make_request
from nvembed.synthesis.documents import read_documents
from nvembed.synthesis.endpoint import retry_after
from nvembed.synthesis.from_documents import passage_request
from nvembed.synthesis.gathering import UNUSABLE, Gathered
from nvembed.synthesis.prompts import document_prompt
from nvembed.synthesis.synthesize import _folder

if TYPE_CHECKING:
    from synthetic_documents import Make


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


def test_endpoints_share_requests_by_weight(section: Make) -> None:
    one = section()
    heavy, light = one.endpoints[0], one.endpoints[0].model_copy(update={"model": "rules-2", "weight": 0.25})
    mixed = one.model_copy(update={"endpoints": [heavy, light]})
    prompt = document_prompt("text", [], 0)

    chosen = [make_request(mixed, f"passage/{number}", prompt).endpoint for number in range(2000)]

    assert 0.17 < sum(chosen) / len(chosen) < 0.23, "a fifth, within four standard deviations"


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
