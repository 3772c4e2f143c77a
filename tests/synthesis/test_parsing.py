"""JSON is found in whatever a model answers, and nothing is made up."""

from __future__ import annotations

import json

import pytest

from nvembed.synthesis.parsing import bare_lines, parse_object, texts_in

WHOLE = {
    "queries": [{"query": 'a "quoted" {one}', "hard_negatives": ["x, ]", "y"]}, {"query": "b", "hard_negatives": []}]
}
TEXT = json.dumps(WHOLE)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"```json\n{TEXT}\n```",
        f"Sure, {{here}} it is: {TEXT} Anything else?",
        json.dumps(WHOLE, indent=2),
        TEXT.replace("[]}]", "[],},]"),
        f"<think>maybe {{}} or so</think>{TEXT}",
    ],
)
def test_a_whole_object_is_found(text: str) -> None:
    assert parse_object(text) == WHOLE


def test_a_line_end_inside_a_string_does_no_harm() -> None:
    assert parse_object('{"query": "one\ntwo"}') == {"query": "one\ntwo"}


@pytest.mark.parametrize("end", range(1, len(TEXT)))
def test_of_a_cut_off_answer_only_what_stands_complete_is_taken(end: int) -> None:
    found = parse_object(TEXT[:end])

    if found is not None:
        queries = found.get("queries", [found])
        for got, wanted in zip(queries, WHOLE["queries"], strict=False):
            assert got["query"] == wanted["query"]
            assert got.get("hard_negatives", []) == wanted["hard_negatives"][: len(got.get("hard_negatives", []))]
    first_done = TEXT.index('{"query": "b"')
    assert (found is not None) or end < first_done


@pytest.mark.parametrize("text", ["", "no", "[1, 2]", "{", "{}", '{"query": "abc', "}{", '{"a": 1', "null"])
def test_nothing_usable_is_nothing(text: str) -> None:
    assert parse_object(text) is None


def test_texts_are_stripped_and_stand_once() -> None:
    assert texts_in([" a ", "a", "", 3, None, "b"]) == ["a", "b"]
    assert texts_in("one") == ["one"]
    assert texts_in({"x": 1}) == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("How is it installed?", ["How is it installed?"]),
        ('Here are two questions:\n\n1. "How so?"\n2) What then?\n', ["How so?", "What then?"]),
        ("Question: What is it?", ["What is it?"]),
        ("**Query 1:** what it is\n- and more", ["what it is", "and more"]),
        ('"a" is quoted, the rest "not', ['"a" is quoted, the rest "not']),
        ("<think>hm\nwhat</think>\nWhy?", ["Why?"]),
        ("", []),
    ],
)
def test_bare_lines_lose_numbers_quotes_and_what_leads_to_them(text: str, lines: list[str]) -> None:
    assert bare_lines(text) == lines
