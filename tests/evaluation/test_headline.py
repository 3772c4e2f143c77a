"""The numbers by which one run is compared with another."""

from __future__ import annotations

from typing import Any

from nvembed.evaluation.headline import challenger_numbers


def _content(beats: str, passed: bool) -> dict[str, Any]:
    gap = {"task": "retrieval", "split": "test", "a": "stage2", "mean": 0.04, "low": 0.01, "high": 0.07}
    other = {**gap, "task": "sts", "mean": 0.5}
    scores = {"retrieval": {"score": 0.6}, "sts": {"score": 0.7}}
    return {
        "primary": {"task": "retrieval", "split": "test"},
        "verdict": {"challenger": "stage2", "beats": beats, "passed": passed},
        "differences": [{**other, "b": beats}, {**gap, "b": "bm25", "mean": 0.9}, {**gap, "b": beats}],
        "scores": {"stage2": {"test": scores, "dev": {"retrieval": {"score": 0.1}}}},
    }


def test_the_gain_is_that_over_the_one_to_beat_on_what_the_gate_asks_for() -> None:
    expected = {"gain": 0.04, "gain_low": 0.01, "gain_high": 0.07, "score_retrieval": 0.6, "score_sts": 0.7}
    named = {f"challenger.{name}": value for name, value in expected.items()}
    assert challenger_numbers(_content("champion", True)) == {**named, "challenger.passed": 1.0}
    assert next(iter(challenger_numbers(_content("base", False)))) == "challenger.gain"
    assert challenger_numbers(_content("base", False)) == {**named, "challenger.passed": 0.0}


def test_where_nothing_was_trained_there_is_nothing_to_compare() -> None:
    content = _content("base", False)
    content["verdict"]["challenger"] = None
    assert challenger_numbers(content) == {}
