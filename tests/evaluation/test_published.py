"""The published scores beside one's own."""

from __future__ import annotations

import pytest

from nvembed.evaluation.published import published_scores, published_table


def _content(**scores: float) -> dict[str, object]:
    rows = {task: {"score": score} for task, score in scores.items()}
    return {"primary": {"split": "test"}, "challenger": "stage2", "scores": {"stage2": {"test": rows}}}


def test_all_56_tasks_are_there_and_average_to_what_the_paper_says() -> None:
    scores = published_scores()

    assert len(scores) == 56
    assert sum(row["NV-Embed-v2"] for row in scores.values()) / 56 == pytest.approx(0.7231, abs=1e-4)
    assert sum(row["NV-Embed-v1"] for row in scores.values()) / 56 == pytest.approx(0.6932, abs=1e-4)


def test_only_common_tasks_stand_in_the_table_and_its_mean() -> None:
    head, rows = published_table(_content(SciFact=0.5, STS16=0.7, retrieval=0.9)) or ([], [])

    assert head == ["task", "this model", "NV-Embed-v1", "NV-Embed-v2"]
    assert rows == [
        ["STS16", "70.00", "84.77", "86.77"],
        ["SciFact", "50.00", "78.43", "80.13"],
        ["mean of 2", "60.00", "81.60", "83.45"],
    ]
    assert published_table(_content(retrieval=0.9)) is None
