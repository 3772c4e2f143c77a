"""The teacher's scores that mining leaves beside the examples, read back for training."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvembed.core.errors import UserError
from nvembed.data import Example, read_teacher_scores, write_examples


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))


def example(query: str, positive: str, *negatives: str) -> Example:
    return Example.make(
        task="docs", task_type="retrieval", query=query, positive=positive, instruction="Find it",
        source="test", license="CC0-1.0", negatives=negatives,
    )  # fmt: skip


def test_each_scored_text_has_its_score_and_rows_that_were_not_mined_have_none(tmp_path: Path) -> None:
    examples = [example("q1", "p1", "n1", "n2"), example("q2", "p2", "n3"), example("q3", "p3")]
    columns = {"positive_score": [0.75, None, 0.5], "negative_scores": [[0.5, 0.25], [], []]}
    write_examples(tmp_path, examples, columns=columns)
    assert read_teacher_scores(tmp_path) == {
        examples[0].id: {"p1": 0.75, "n1": 0.5, "n2": 0.25},
        examples[2].id: {"p3": 0.5},
    }


def test_rows_that_differ_in_their_negatives_alone_share_their_scores(tmp_path: Path) -> None:
    examples = [example("q", "p", "n1"), example("q", "p", "n2")]
    assert examples[0].id == examples[1].id
    columns = {"positive_score": [0.75, 0.75], "negative_scores": [[0.5], [0.25]]}
    write_examples(tmp_path, examples, columns=columns)
    assert read_teacher_scores(tmp_path) == {examples[0].id: {"p": 0.75, "n1": 0.5, "n2": 0.25}}


def test_scores_are_looked_up_by_id_and_an_unknown_id_has_none(tmp_path: Path) -> None:
    examples = [example(f"q{i}", f"p{i}", f"n{i}") for i in range(50)]
    write_examples(
        tmp_path,
        examples,
        columns={"positive_score": [i / 64 for i in range(50)], "negative_scores": [[i / 128] for i in range(50)]},
    )
    scores = read_teacher_scores(tmp_path)
    assert len(scores) == 50
    assert scores[examples[33].id] == {"p33": 33 / 64, "n33": 33 / 128}
    assert scores.get("another", {}) == {}
    assert "another" not in scores and examples[0].id in scores


@pytest.mark.parametrize("columns", [None, {"positive_score": [None], "negative_scores": [[]]}])
def test_a_folder_without_scores_is_refused(tmp_path: Path, columns: dict[str, list[object]] | None) -> None:
    write_examples(tmp_path, [example("q", "p", "n")], columns=columns)
    with pytest.raises(UserError, match="holds no scores of a teacher; give a folder that mining wrote"):
        read_teacher_scores(tmp_path)


@pytest.mark.parametrize(
    ("positive", "negatives"),
    [(float("nan"), [0.5, 0.25]), (0.75, [0.5, float("inf")]), (0.75, [0.5, None]), (0.75, [0.5])],
    ids=["nan", "infinite", "none", "one too few"],
)
def test_a_score_that_is_no_number_is_refused_with_its_example(tmp_path, positive, negatives):
    examples = [example("q", "p", "n1", "n2")]
    columns = {"positive_score": [positive], "negative_scores": [negatives]}
    write_examples(tmp_path, examples, columns=columns)
    with pytest.raises(UserError, match=r"scores of example .* \('q'\) are not one finite number"):
        read_teacher_scores(tmp_path)
