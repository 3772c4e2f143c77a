"""A run that is killed loses nothing but the steps since its last checkpoint.

What is pinned: 20 runs of recipe `tiny`'s stage, killed by SIGKILL at moments drawn by (seed, phase), 8 of them while a
checkpoint is written, are started again at once, wait for the old ranks to be gone, go on from the newest whole
checkpoint and end with the very bytes of an undisturbed run; their metrics are one curve. (`make test` has 3 of them,
`make test-all` all 20; both print the tally.) A run that is asked to end keeps the step it has reached, whoever of its
processes are asked. A checkpoint of one ZeRO stage and number of ranks serves any other.
"""

import json
import signal
import subprocess
import time

import pytest
import torch
from training import kills
from training.runs import (
    CHECKPOINT_STEPS,
    STEPS,
    as_bytes,
    descendants,
    finish,
    kill,
    log_of,
    losses,
    make_job,
    ranks_of,
    send,
    start,
    steps_done,
    steps_kept,
    trained,
    wait_for,
)
from training.support import make_dataset, make_examples

from nvembed.core.lifeline import process_identity
from nvembed.training.checkpoints import TENSORS, newest_checkpoint

QUICK = [("in a step", 0), ("checkpoint being written", 0), ("checkpoint not yet named", 0)]
KILLS = [
    pytest.param(phase, seed, id=f"{phase}-{seed}", marks=[] if (phase, seed) in QUICK else [pytest.mark.slow])
    for phase in kills.PHASES
    for seed in kills.SEEDS
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Dataset, and a run that nobody touches, under way."""
    folder = tmp_path_factory.mktemp("resume")
    dataset = make_dataset(folder / "dataset", make_examples(50))
    job = make_job(folder / "undisturbed", dataset)
    return dataset, job, start(job)


@pytest.mark.slow
def test_killed_twice_and_its_newest_checkpoint_damaged_a_run_ends_with_the_bytes_of_an_undisturbed_one(
    undisturbed, tmp_path
):
    dataset, untouched, untouched_starter = undisturbed
    state = tmp_path / "state"
    job = make_job(state, dataset)

    first = start(job)
    wait_for(job, first, lambda: steps_kept(state) >= 6)
    left_behind = kill(first, tree=False)
    second = start(job)
    wait_for(job, second, lambda: not any(process_identity(pid) for pid in left_behind))
    reached = steps_kept(state)
    assert 6 <= reached < STEPS
    wait_for(job, second, lambda: steps_kept(state) >= reached + 6)
    kill(second, tree=True)

    newest = newest_checkpoint(state / "checkpoints")
    with (newest.folder / TENSORS).open("r+b") as stream:
        stream.seek(2000)
        stream.write(b"damaged")
    found = finish(job)
    expected = trained(untouched, untouched_starter)
    assert as_bytes(found) == as_bytes(expected)
    log = log_of(job)
    assert f"going on from the checkpoint of step {reached}" in log
    assert "passed over" in log
    assert f"going on from the checkpoint of step {newest.step - 3}" in log
    assert losses(state) == losses(untouched.parent)
    assert len(losses(state)) == STEPS
    assert not (state / "checkpoints").exists(), "a finished run needs its checkpoints no more"
    facts = json.loads((untouched.parent / "result" / "result.json").read_text())
    assert (facts["world"], facts["precision"]) == (1, "float32")


@pytest.mark.parametrize(("phase", "seed"), KILLS)
def test_killed_at_a_drawn_moment_and_resumed_a_run_ends_with_the_same_bytes(
    undisturbed, tmp_path, phase, seed, record_property
):
    dataset, untouched, untouched_starter = undisturbed
    job = make_job(tmp_path / "state", dataset)
    killed = kills.kill_at_drawn_moment(job, start(job), phase, seed)
    found = finish(job)
    resumed = kills.resumed_from(job, killed)
    same = as_bytes(found) == as_bytes(trained(untouched, untouched_starter))
    record_property("kill", [phase, seed, killed.found, killed.steps_done, resumed, same])
    assert same
    assert losses(job.parent) == losses(untouched.parent)
    if killed.found != "result there":
        assert resumed == killed.newest_checkpoint
        assert killed.steps_done - resumed <= CHECKPOINT_STEPS
    if phase in kills.WRITING:
        assert resumed < killed.steps_done, "the checkpoint that was being written does not count"


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "seconds"), [("the starter", 35), ("all its processes at once", 2)])
def test_asked_to_end_in_a_long_step_a_run_keeps_the_step_reached(undisturbed, tmp_path, asked, seconds):
    dataset, untouched, untouched_starter = undisturbed
    state = tmp_path / "state"
    job = make_job(state, dataset)
    starter = start(job)
    wait_for(job, starter, lambda: steps_done(state) >= 7)
    (rank,) = ranks_of(starter)
    send(signal.SIGSTOP, rank)  # its step takes so long
    seen = steps_done(state)
    send(signal.SIGTERM, *(descendants(starter.pid) if "all" in asked else []), starter.pid)
    time.sleep(seconds)
    send(signal.SIGCONT, rank)
    assert starter.wait(timeout=60) == 128 + signal.SIGTERM
    assert steps_kept(state) == steps_done(state) <= seen + 1 < STEPS, "no step is begun after the request"
    assert as_bytes(finish(job)) == as_bytes(trained(untouched, untouched_starter))


@pytest.mark.slow
def test_asked_to_end_while_the_model_is_loaded_a_run_ends_at_once_and_nothing_is_amiss(undisturbed, tmp_path):
    dataset, untouched, untouched_starter = undisturbed
    state = tmp_path / "state"
    job = make_job(state, dataset)
    starter = start(job)
    wait_for(job, starter, lambda: (state / ".lock").exists())
    below = descendants(starter.pid)
    asked = time.monotonic()
    send(signal.SIGTERM, *below, starter.pid)
    assert starter.wait(timeout=60) == 128 + signal.SIGTERM
    assert time.monotonic() - asked < 20
    assert steps_done(state) == 0
    assert not any(process_identity(pid) for pid in below)
    assert as_bytes(finish(job)) == as_bytes(trained(untouched, untouched_starter))


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_run_within_seconds_and_it_resumes(undisturbed, tmp_path):
    dataset, _, _ = undisturbed
    state = tmp_path / "state"
    job = make_job(state, dataset, dropout=0.0)
    starter = start(job, 2)
    wait_for(job, starter, lambda: steps_kept(state) >= 6)
    below = descendants(starter.pid)
    killed = time.monotonic()
    send(signal.SIGKILL, ranks_of(starter)[1])
    assert starter.wait(timeout=60) == 1
    assert time.monotonic() - killed < 30
    assert not any(process_identity(pid) for pid in below)
    kept = steps_kept(state)
    finish(job, 2)
    assert f"going on from the checkpoint of step {kept}" in log_of(job)
    assert [step for step, *_ in losses(state)] == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kilobytes", "checkpoint_steps", "kept"),
    [(200, 3, "checkpoint of step 3 not written"), (60, STEPS, "the disk is full; free some space")],
    ids=["a checkpoint", "the result"],
)
def test_what_the_disk_has_no_room_for_is_told_in_a_line_and_done_when_there_is_room(
    undisturbed, tmp_path, kilobytes, checkpoint_steps, kept
):
    dataset, untouched, untouched_starter = undisturbed
    job = make_job(tmp_path / "state", dataset, checkpoint_steps=checkpoint_steps)
    limited = start(job, prefix=["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "-"], stderr=subprocess.PIPE)
    _, said = limited.communicate(timeout=500)
    assert limited.returncode == 2, said
    (line,) = said.decode().splitlines()
    assert kept in line
    assert as_bytes(finish(job)) == as_bytes(trained(untouched, untouched_starter))


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "before", "after"), [(0, 2, 1), (1, 2, 1), (2, 2, 4), (3, 2, 4), (3, 4, 1)])
def test_a_checkpoint_serves_other_numbers_of_ranks(undisturbed, tmp_path, zero, before, after):
    dataset, _, _ = undisturbed
    plain = finish(make_job(tmp_path / "plain", dataset, dropout=0.0))
    job = make_job(tmp_path / "state", dataset, dropout=0.0, zero=zero)
    starter = start(job, before)
    wait_for(job, starter, lambda: steps_kept(tmp_path / "state") >= 12)
    kill(starter, tree=True)
    found = finish(job, after)
    assert "going on from the checkpoint" in (tmp_path / "state" / "worker.log").read_text()
    for (_, ours, _), (_, expected, _) in zip(losses(tmp_path / "state"), losses(tmp_path / "plain"), strict=True):
        assert ours == pytest.approx(expected, rel=2e-3)
    for name, tensor in plain.items():
        torch.testing.assert_close(found[name], tensor, rtol=0.02, atol=0.02 * float(tensor.abs().max()))
