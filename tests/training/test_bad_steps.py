"""Bad steps are told apart before a weight changes, named, and left out or fatal as the recipe says.

What is pinned: under every ZeRO stage, on two ranks, with and without gradient cache, a step whose loss or gradient is
no number leaves weights, moments and the optimiser's count as they were; which steps count as spikes; that the ids
are kept; that the run ends with one clear line. The faults are real NaNs, in one rank's loss or gradient alone.
"""

import json
from pathlib import Path
from statistics import median

import pytest
import torch
from safetensors.torch import load_file
from training.support import HERE, make_dataset, make_examples, recipe, torchrun

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.data.store import document_id, query_id
from nvembed.recipe import BadSteps
from nvembed.training import train_stage
from nvembed.training.bad_steps import BadBatches, BadStepJudge, read_bad_batches, stop_or_go_on

SKIP = ["stage1.bad_steps.policy=skip", "stage1.bad_steps.spike_factor=1.02", "stage1.bad_steps.spike_window=3"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset, and a state folder of its own."""
    folder = tmp_path_factory.mktemp("bad-steps")
    make_dataset(folder / "dataset", make_examples(40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVEMBED_STATE", str(folder / "state"))
        yield folder


def train(place, out, *overrides):
    made = recipe(*overrides)
    train_stage("stage1", made.stage1, made.model, made.resources, place / "dataset", None, place / out)
    return place / out


def judged(losses, **rule):
    """What a judge says to one loss after the other."""
    judge = BadStepJudge(BadSteps(policy="skip", **rule))
    said = []
    for loss in losses:
        said.append(judge.of_loss(loss))
        judge.note(loss, said[-1])
    return said


def test_a_loss_that_is_no_number_is_bad_and_by_default_no_other():
    said = judged([1.0, float("nan"), 1e9, float("inf"), 2.0])
    assert [bool(one) for one in said] == [False, True, False, True, False]
    assert said[1] == "the loss is nan"


def test_a_spike_is_above_the_median_of_the_last_good_steps_once_there_are_enough():
    said = judged([9.0, 1.0, 2.0, 3.0, 5.9, 6.1, 6.1, 5.0], spike_factor=2, spike_window=3)
    # after 9 1 2: median 2; after 1 2 3: 2 → 5.9 is a spike and no part of the next window
    assert [bool(one) for one in said] == [False, False, False, False, True, True, True, True]
    assert said[4] == "the loss 5.9 is above 2 times 2, the median of 3 steps"


def test_a_judge_restored_from_json_goes_on_as_the_one_before():
    rule = BadSteps(policy="skip", spike_factor=1.5, spike_window=3)
    first = BadStepJudge(rule)
    for loss in (1 / 3, 0.1, 2 / 7, 9.0):
        first.note(loss, first.of_loss(loss))
    second = BadStepJudge(rule)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state() and (second.skipped, second.in_a_row) == (1, 1)
    edge = 1.5 * median([1 / 3, 0.1, 2 / 7])
    assert second.of_loss(edge) is None and second.of_loss(edge * (1 + 1e-12)) is not None


def test_entries_of_steps_that_will_be_done_again_are_forgotten(tmp_path):
    batch = make_examples(2)
    first = BadBatches(tmp_path, 0)
    for step in (3, 5):
        first.add(step, "the loss is nan", batch, float("nan"), float("nan"))
    with first.path.open("a") as stream:
        stream.write('{"step": 6, "wh')
    BadBatches(tmp_path, 4)
    (entry,) = read_bad_batches(first.path)
    assert (entry["step"], entry["loss"]) == (3, "nan")
    assert entry["examples"][0] == {
        "id": batch[0].id,
        "query": query_id(batch[0].query),
        "documents": [document_id(text) for text in (batch[0].positive, *batch[0].negatives)],
    }


def test_a_bad_step_changes_no_weight_and_no_moment_under_any_zero_stage(tmp_path):
    made = recipe("stage1.batch_size=8", "stage1.steps=4", "stage1.warmup_steps=0", "stage1.bad_steps.policy=skip")
    make_dataset(tmp_path / "dataset", make_examples(24))
    common = {
        "model": made.model.model_dump(mode="json"),
        "stage": made.stage1.model_dump(mode="json"),
        "dataset": str(tmp_path / "dataset"),
        "budget": 100_000,
        "zero": 0,
    }
    poison = {"1": "loss", "2": "gradient"}
    cases = [{**common, "name": "truth", "steps": [0, 3]}]
    for zero, name, budget in [(0, "zero0", 10**6), (1, "zero1", 10**6), (2, "zero2-cached", 200), (3, "zero3", 10**6)]:
        cases.append({**common, "name": name, "zero": zero, "budget": budget, "steps": 4, "poison": poison})
    cases.append({**cases[-1], "name": "zero3-cached", "budget": 200})
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    torchrun(2, str(HERE / "rank_program.py"), str(tmp_path / "cases.json"), str(tmp_path))

    truth = load_file(tmp_path / "truth.safetensors")
    for case in cases[1:]:
        told = json.loads((tmp_path / f"{case['name']}.json").read_text())
        assert {cut["fits"] for cut in told["cut"]} == {"cached" not in case["name"]}
        bad = [record["bad"] for record in told["records"]]
        assert bad[0] is bad[3] is None and bad[1] == "the loss is nan"
        assert bad[2] in ("the gradients' norm is nan", "the gradients' norm is inf")
        assert [record["skipped"] for record in told["records"]] == [0, 1, 1, 0]
        found = load_file(tmp_path / f"{case['name']}.safetensors")
        for name, tensor in truth.items():
            scale = float(tensor.abs().max())
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4 * scale + 1e-8, msg=case["name"])


def test_spikes_that_the_recipe_skips_are_the_ones_the_rule_names_and_the_report_shows_them(place):
    out = train(place, "skipping", "stage1.steps=16", "stage1.learning_rate=1e-4", *SKIP)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    entries = {entry["step"]: entry for entry in read_bad_batches(out / "bad_batches.jsonl")}
    taken, expected = [], set()
    for record in records:
        loss = entries[record["step"]]["loss"] if record["skipped"] else record["loss"]
        if len(taken) >= 3 and loss > 1.02 * median(taken[-3:]):
            expected.add(record["step"])
        else:
            taken.append(loss)
    assert {record["step"] for record in records if record["skipped"]} == set(entries) == expected
    assert 0 < len(expected) < 13
    known = {example.id for example in make_examples(40)}
    assert all(one["id"] in known for entry in entries.values() for one in entry["examples"])
    manifest = read_manifest(out, verify=True)
    assert manifest.counts["skipped_steps"] == manifest.headline["stage1.skipped_steps"] == len(expected)
    page = (out / "report.html").read_text()
    assert "Steps left out" in page and all(f"<tr><td>{step}</td><td>the loss" in page for step in expected)


def test_skips_in_a_row_are_borne_up_to_a_number_and_then_stop_the_run_with_one_line(tmp_path):
    judge = BadStepJudge(BadSteps(policy="skip", max_in_a_row=2))
    for loss in (float("nan"), 1.0, float("nan")):
        judge.note(loss, judge.of_loss(loss))
        stop_or_go_on(judge, 3, "the loss is nan", tmp_path)
    judge.note(float("nan"), "the loss is nan")
    with pytest.raises(UserError, match="step 4: the loss is nan; 2 steps in a row were left out") as caught:
        stop_or_go_on(judge, 4, "the loss is nan", tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path / "bad_batches.jsonl") in str(caught.value)


def test_a_loss_that_is_no_number_stops_the_run_names_the_step_and_where_the_ids_are(place):
    with pytest.raises(UserError, match=r"step 2: the loss is nan; no weight was changed by it; the ids") as caught:
        train(place, "unmade", "stage1.learning_rate=1e38")
    assert "\n" not in str(caught.value) and not (place / "unmade").exists()
    where = str(caught.value).partition("batch are in ")[2].partition(";")[0]
    (entry,) = read_bad_batches(Path(where))
    assert (entry["step"], entry["why"], len(entry["examples"])) == (2, "the loss is nan", 8)
