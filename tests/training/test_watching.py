"""What is watched while a stage trains: the check on dev and what it decides, parts of the loss.

What is pinned: nDCG@10 against trec_eval; a check's score against the trained model encoded anew, on two ranks with
ZeRO 3; that a stage whose checks decide returns the weights of its best check and ends early; that a killed run decides
as an undisturbed one; that checks which only watch leave no trace in what made a stage.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training.support import HERE, make_dataset, make_eval_sets, make_examples, recipe

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.modeling import NVEmbedModel
from nvembed.recipe import DevCheck, load_recipe
from nvembed.training import train_stage
from nvembed.training.checkpoints import bring_best, newest_checkpoint, read_checkpoint, save_checkpoint
from nvembed.training.dev_check import SCORE, Best, ndcg_at_10, read_dev_tasks
from nvembed.training.history import History, read_history
from nvembed.training.job import Job

DEV = make_examples(30, seed=9)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Dataset, eval sets, and a state folder of its own."""
    folder = tmp_path_factory.mktemp("watching")
    make_dataset(folder / "dataset", make_examples(40))
    make_eval_sets(folder / "eval", DEV)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVEMBED_STATE", str(folder / "state"))
        yield folder


def train(place, out, *overrides, eval_sets="eval"):
    made = recipe(*overrides)
    sets = place / eval_sets if eval_sets else None
    train_stage("stage1", made.stage1, made.model, made.resources, place / "dataset", None, place / out, eval_sets=sets)
    return place / out


def scores(folder):
    return {record["step"]: record[SCORE] for record in read_history(folder / "metrics.jsonl") if SCORE in record}


def trec_eval(similarities, relevant):
    """nDCG@10 by trec_eval's own code."""
    import pytrec_eval

    run = {f"q{i}": {f"d{j}": float(s) for j, s in enumerate(row)} for i, row in enumerate(similarities)}
    qrels = {f"q{i}": {f"d{j}": grade for j, grade in grades.items()} for i, grades in enumerate(relevant)}
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
    return float(np.mean([found[name]["ndcg_cut_10"] for name in qrels]))


def independent_score(adapter):
    """nDCG@10 on all of dev, of the trained tensors loaded anew and encoded by the model itself."""
    made = recipe()
    model = NVEmbedModel.from_section(made.model, adapter)
    queries = model.encode([e.query for e in DEV], "find the same words", made.stage1.query_max_length)
    texts = list(dict.fromkeys(text for e in DEV for text in (e.positive, *e.negatives[:1])))
    documents = model.encode(texts, "", made.stage1.document_max_length)
    return trec_eval(queries @ documents.T, [{texts.index(e.positive): 1} for e in DEV])


def test_ndcg_is_trec_evals():
    draw = np.random.default_rng(3)
    similarities = draw.normal(size=(40, 25)).astype(np.float32)
    relevant = [
        {int(column): int(draw.integers(1, 4)) for column in draw.choice(25, draw.integers(1, 15), replace=False)}
        for _ in range(40)
    ]
    found = ndcg_at_10(torch.tensor(similarities), relevant)
    assert found == pytest.approx(trec_eval(similarities, relevant), abs=1e-9)
    assert 0.1 < found < 0.9


def test_dev_tasks_are_cut_down_the_same_way_every_time_and_keep_what_answers_their_queries(place):
    stage = recipe().stage1
    check = DevCheck(every=1, queries=5, documents=12)
    (task,) = read_dev_tasks(place / "eval", check, stage)
    assert [task] == read_dev_tasks(place / "eval", check, stage)
    assert (len(task.queries), len(task.documents)) == (5, 12)
    positives = {e.query: e.positive for e in DEV}
    for query, grades in zip(task.queries, task.relevant, strict=True):
        (place_of_answer,) = grades
        assert task.texts[task.documents[place_of_answer]].text == positives[task.texts[query].text]
    assert task.texts[0].instruction == "find the same words" and task.texts[-1].instruction == ""
    (other,) = read_dev_tasks(place / "eval", DevCheck(every=1, queries=5, documents=12, seed=1), stage)
    assert other.texts != task.texts
    (whole,) = read_dev_tasks(place / "eval", DevCheck(every=1), stage)
    assert len(whole.queries) == 30 and len(whole.documents) == len({t.text for t in whole.texts[30:]})


def test_the_best_check_is_the_first_or_one_that_gains_more_than_the_minimum():
    best = Best()
    seen = []
    for step, score in [(2, 0.30), (4, 0.32), (6, 0.36), (8, 0.2), (10, 0.41)]:
        best = best.after(step, score, min_gain=0.05)
        seen.append((best.step, best.checks_since))
    assert seen == [(2, 0), (2, 1), (6, 0), (6, 1), (6, 2)]
    assert Best(**json.loads(json.dumps(best.state()))) == best


WATCH = ["stage1.dev_check.every=3", "stage1.zero_stage=3", "stage1.micro_batch_tokens=400", "resources.processes=2"]
# No later check can gain 1, so the first is the best: its weights are not those of the last step.
IMPATIENT = [
    "stage1.dev_check.every=2",
    "stage1.dev_check.patience=2",
    "stage1.dev_check.min_gain=1",
    "stage1.steps=20",
]
PARTS = ["distillation.weight=0.5", "matryoshka.dims=[16,8]", "matryoshka.weights=[0.5,0.25]"]


def test_a_check_scores_what_the_trained_model_scores_on_two_ranks_under_zero_3_and_leaves_no_trace(place):
    out = train(place, "watched", *WATCH, "stage1.learning_rate=0.01")
    found = scores(out)
    assert set(found) == {3, 4}, "every third step, and the last"
    assert found[4] == pytest.approx(independent_score(out), abs=1e-6)
    manifest = read_manifest(out)
    assert manifest.headline["stage1.dev_ndcg_at_10"] == found[4]
    assert "eval_sets" not in manifest.inputs

    make_eval_sets(place / "other-eval", DEV[:20])
    (state,) = (place / "state" / "training").iterdir()
    log = (state / "worker.log").read_bytes()
    train(place, "watched-again", *WATCH, "stage1.learning_rate=0.01", eval_sets="other-eval")
    assert (state / "worker.log").read_bytes() == log, "other eval sets that decide nothing trained it again"


def test_a_stage_out_of_patience_ends_and_gives_the_weights_of_its_best_check(place, impatient):
    out, told = impatient
    found = scores(out)
    assert set(found) == {2, 4, 6}
    assert found[2] != pytest.approx(found[6], abs=1e-3), "the two could not be told apart"
    assert independent_score(out) == pytest.approx(found[2], abs=1e-6)
    manifest = read_manifest(out, verify=True)
    assert manifest.counts["steps"] == manifest.headline["stage1.steps"] == 6
    assert manifest.headline["stage1.weights_of_step"] == 2
    assert manifest.headline["stage1.dev_ndcg_at_10"] == found[2]
    assert manifest.inputs["eval_sets"] == read_manifest(place / "eval").content, "what decides has a part in it"
    assert any("stage1 ends at step 6 of 20: no gain on dev in 2 checks since step 2" in text for text in told)


def test_a_losses_parts_add_up_with_their_weights_and_speed_and_memory_stand_beside(impatient):
    for record in read_history(impatient[0] / "metrics.jsonl"):
        parts = record["info_nce_loss"] + 0.5 * record["distillation_loss"]
        parts += 0.5 * record["matryoshka_16_loss"] + 0.25 * record["matryoshka_8_loss"]
        assert record["loss"] == pytest.approx(parts, rel=1e-6)
        assert 0 < record["peak_share"] < 1 and record["memory_gigabytes"] > 0.1
        assert 0 <= record["data_wait_seconds"] < record["step_seconds"]


@pytest.fixture(scope="module")
def impatient(place):
    """A stage that ends early, its loss of many parts; and what it said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVEMBED_PROGRESS", str(place / "progress"))
        out = train(place, "impatient", *IMPATIENT, "stage1.learning_rate=0.02", *(f"stage1.{part}" for part in PARTS))
    return out, [json.loads(line).get("text", "") for line in (place / "progress").read_text().splitlines()]


def test_a_stage_whose_checks_decide_needs_a_dev_set(place):
    with pytest.raises(
        UserError, match=r"dev_check decides by dev queries, but no eval sets are given \(--eval-sets\)"
    ):
        train(place, "unmade", *IMPATIENT, eval_sets=None)


def test_a_recipe_whose_checks_have_nothing_to_look_at_is_refused():
    with pytest.raises(UserError, match=r"keep_best and patience need checks; set every"):
        load_recipe("tiny", ["stage1.dev_check.patience=2"])
    with pytest.raises(
        UserError, match=r"stage2.dev_check decides by dev queries, but the data section holds out none"
    ):
        load_recipe("tiny", ["stage2.dev_check.every=2", "stage2.dev_check.keep_best=true", "data.dev_fraction=0"])


STEPS = 30
DECIDING = [
    *(f"stage1.steps={STEPS}", "stage1.learning_rate=0.003", "model.lora.dropout=0.1"),
    *("stage1.checkpoint_steps=1000", "stage1.checkpoint_minutes=0.0001"),
    *("stage1.dev_check.every=4", "stage1.dev_check.keep_best=true"),
    *("stage1.bad_steps.policy=skip", "stage1.bad_steps.spike_factor=1.03", "stage1.bad_steps.spike_window=4"),
    "stage1.bad_steps.max_in_a_row=100",
]


def make_job(place, state):
    made = recipe(*DECIDING)
    state.mkdir()
    job = Job(
        name="stage1",
        stage=made.stage1.model_dump(mode="json"),
        model=made.model.model_dump(mode="json"),
        dataset=str(place / "dataset"),
        init=None,
        state=str(state),
        resume=None,
        made_by={"code": "of the test"},
        device="cpu",
        threads=1,
        eval_sets=str(place / "eval"),
    )
    job.write(state / "job.json")
    return state / "job.json"


def start(job):
    return subprocess.Popen([sys.executable, str(HERE / "driver.py"), str(job), "1"], start_new_session=True)


def wait_until(condition, starter, state):
    deadline = time.monotonic() + 200
    while not condition():
        assert starter.poll() is None and time.monotonic() < deadline, (state / "worker.log").read_text()[-3000:]
        time.sleep(0.01)


def decided(state):
    """All that a run decides, in bits."""
    records = [
        {k: r[k] for k in ("step", "skipped", "loss", SCORE) if k in r} for r in read_history(state / "metrics.jsonl")
    ]
    facts = json.loads((state / "result" / "result.json").read_text())
    return {
        "weights": {n: t.numpy().tobytes() for n, t in load_file(state / "result" / "trainable.safetensors").items()},
        "records": records,
        "bad": (state / "bad_batches.jsonl").read_text(),
        "facts": {name: facts[name] for name in ("steps", "weights_of_step", "skipped")},
    }


def test_a_killed_run_keeps_checkpoints_by_the_clock_and_decides_as_an_undisturbed_one(place, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    untouched = start(make_job(place, undisturbed))
    job = make_job(place, killed)
    first = start(job)
    wait_until(lambda: len(read_history(killed / "metrics.jsonl")) >= 14, first, killed)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert start(job).wait(timeout=300) == 0, (killed / "worker.log").read_text()[-3000:]
    assert untouched.wait(timeout=300) == 0, (undisturbed / "worker.log").read_text()[-3000:]

    log = (killed / "worker.log").read_text()
    assert "going on from the checkpoint of step" in log, "no checkpoint was kept, though none was due by steps"
    expected = decided(undisturbed)
    assert decided(killed) == expected
    assert expected["facts"]["skipped"] > 0 and len(expected["records"]) == STEPS
    best = max((r for r in expected["records"] if SCORE in r), key=lambda r: r[SCORE])
    assert expected["facts"]["weights_of_step"] == best["step"]


def test_the_best_checkpoint_outlives_newer_ones_and_comes_along_to_another_folder(tmp_path):
    def save(step, best):
        watched = {"bad_steps": {}, "best": Best(best, 0.5).state()}
        tensors = {"weight/a": torch.full((3,), float(step))}
        save_checkpoint(tmp_path / "here", tensors, step=step, seconds=1, made_by={}, keep=1, watched=watched)

    for step, best in [(2, 2), (4, 2), (6, 2), (8, 8), (10, 8)]:
        save(step, best)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["step-00000008", "step-00000010"]
    bring_best(newest_checkpoint(tmp_path / "here"), tmp_path / "there")
    torch.testing.assert_close(
        read_checkpoint(tmp_path / "there" / "step-00000008").tensors()["weight/a"], torch.full((3,), 8.0)
    )


def test_a_step_that_was_left_out_spoils_no_mean_and_a_check_is_told_with_its_own_step(tmp_path, monkeypatch):
    monkeypatch.setenv("NVEMBED_METRICS", str(tmp_path / "first"))
    history = History(tmp_path / "metrics.jsonl", log_steps=2, upto=0)
    history.add({"step": 1, "loss": 3.0, "skipped": 0.0, SCORE: 0.25})
    history.add({"step": 2, "skipped": 1.0})
    monkeypatch.setenv("NVEMBED_METRICS", str(tmp_path / "again"))
    History(tmp_path / "metrics.jsonl", log_steps=2, upto=2)
    first, again = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in ("first", "again")
    )
    assert [(line["step"], line["metrics"]) for line in first] == [
        (1, {SCORE: 0.25}),
        (2, {"train/loss": 3.0, "train/skipped": 0.5}),
    ]
    assert again == first, "told again, at the same moments"
