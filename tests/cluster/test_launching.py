"""A task and its TrainJob, through the real client, on a server that behaves as the Kubernetes API does.

After each case: no job is left that should be gone, and none is gone that should run.
"""

import logging
import signal
import threading

import pytest
from cluster.fake_trainer import Script, Trainer
from cluster.jobs import NAME, POD, QUICK, RUN, Deed, cluster, launch, launcher_process, resources, until

from nvembed.cluster.api import ClusterError
from nvembed.cluster.launching import Launch
from nvembed.core.errors import UserError


def requests(api, method, what):
    return [one for one in api.requests if one.startswith(method) and what in one]


def test_a_job_is_made_followed_and_its_ranks_logs_are_told_with_their_rank(api, deed, caplog):
    caplog.set_level(logging.INFO)
    with Trainer(api, Script(ticks=4, at_end=deed.finish)) as trainer:
        launch(api, deed)
    told = [record.getMessage() for record in caplog.records if record.name == "nvembed.ranks"]
    for node in (0, 1):  # each line once, in order
        steps = [one for one in told if one.startswith(f"[node {node}] ")]
        assert steps == [f"[node {node}] [rank {node}] step {step}" for step in range(1, 5)]
    assert len(trainer.made) == 1 and deed.looks >= 1
    assert api.find("trainjobs", NAME)["status"]["conditions"][-1]["type"] == "Complete"
    assert str(deed.folder / f"attempt-{deed.attempts[0]}.json") in str(api.find("trainjobs", NAME)["spec"])


def test_it_waits_as_long_as_the_queue_takes(api, deed, caplog):
    caplog.set_level(logging.INFO)
    with Trainer(api, Script(queued=150, at_end=deed.finish)) as trainer:
        launch(api, deed, trainjob={"queue": "gpus", "start_minutes": 0.01})
    assert len(trainer.made) == 1 and deed.finished()
    assert "waits in queue gpus" in caplog.text and "is let go" in caplog.text


def test_pods_without_a_node_are_waited_for_and_it_is_said_what_they_lack(api, deed, caplog):
    script = Script(pending=10**6, at_end=deed.finish)
    deed.look = lambda: "waits for a node" in caplog.text and setattr(script, "pending", 0)
    with Trainer(api, script):
        launch(api, deed)
    assert "3 Insufficient nvidia.com/gpu" in caplog.text and deed.finished()


def test_a_failure_is_told_with_the_failing_pods_last_lines_and_events(api, deed):
    with Trainer(api, Script(end="fail")), pytest.raises(ClusterError) as told:
        launch(api, deed)
    said = str(told.value)
    assert f"TrainJob {NAME} failed: FailedJobs" in said
    assert "(node 1) ended with exit code 1" in said
    assert "RuntimeError: CUDA error: an illegal memory access" in said
    assert "event: BackOff: Back-off restarting failed container node" in said
    assert api.find("trainjobs", NAME) is not None  # its pods can be looked at until the task is tried again


def test_memory_that_ran_out_is_called_so(api, deed):
    killed = threading.Event()

    def kill():
        for pod in trainer.pods(NAME):
            state = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:00Z"}}
            status = {"phase": "Failed", "containerStatuses": [{"name": "node", "state": state}]}
            api.change("pods", pod, lambda tree, status=status: tree.update(status=status))
            api.end_log(pod)
        failed = {"type": "Failed", "status": "True", "reason": "FailedJobs", "message": "m"}
        api.change("trainjobs", NAME, lambda tree: tree.update(status={"conditions": [failed]}))
        killed.set()

    deed.look = lambda: killed.is_set() or (trainer.pods(NAME) and kill())
    with Trainer(api, Script(end="never")) as trainer, pytest.raises(ClusterError, match=r"raise resources\.memory"):
        launch(api, deed)


def test_a_retry_takes_up_the_job_that_a_lost_launcher_left(api, deed):
    with Trainer(api, Script(ticks=300, at_end=deed.finish)) as trainer:
        lost = launcher_process(api, deed.folder)
        until(lambda: trainer.made and trainer.pods(NAME))
        lost.send_signal(signal.SIGKILL)
        lost.wait()
        launch(api, deed)
    assert len(trainer.made) == 1 and deed.finished() and deed.attempts == []


def test_a_retry_takes_the_result_of_a_complete_job(api, deed):
    with Trainer(api, Script(at_end=deed.finish)) as trainer:
        launch(api, deed)
        launch(api, deed)
    assert len(trainer.made) == 1 and len(deed.attempts) == 1


def test_a_complete_job_whose_result_is_gone_is_made_anew(api, deed):
    with Trainer(api, Script(), Script(at_end=deed.finish)) as trainer:
        launch(api, deed)
        assert not deed.finished()
        launch(api, deed)
    assert len(trainer.made) == 2 and deed.finished()


def test_a_retry_replaces_a_failed_job_once_its_pods_are_gone(api, deed):
    with Trainer(api, Script(end="fail"), Script(at_end=deed.finish)) as trainer:
        with pytest.raises(ClusterError):
            launch(api, deed)
        old = api.find("trainjobs", NAME)["metadata"]["uid"]
        launch(api, deed)
        new = api.find("trainjobs", NAME)["metadata"]["uid"]
    assert trainer.made == [old, new] and deed.finished()
    assert len(requests(api, "DELETE", "trainjobs")) == 1
    assert all(pod["metadata"]["ownerReferences"][0]["uid"] != old for pod in api.all("pods"))


def test_a_job_of_other_work_is_replaced(api, deed):
    with Trainer(api, Script(end="never"), Script(at_end=deed.finish)) as trainer:
        other = threading.Thread(target=_quietly, args=(lambda: launch(api, Deed(deed.folder, digest="other")),))
        other.start()
        until(lambda: trainer.made)
        launch(api, deed)
        other.join()
    assert len(trainer.made) == 2 and deed.finished()


def _quietly(function):
    with pytest.raises(ClusterError, match="was deleted while this task waited"):
        function()


@pytest.mark.parametrize("moment", ["queued", "running"])
def test_sigterm_takes_the_job_along(api, deed, moment):
    script = Script(queued=10**6 if moment == "queued" else 0, end="never")
    with Trainer(api, script) as trainer:
        task = launcher_process(api, deed.folder)
        until(lambda: trainer.made and (moment == "queued" or trainer.pods(NAME)))
        task.send_signal(signal.SIGTERM)
        assert task.wait(timeout=20) == 128 + signal.SIGTERM
        until(lambda: api.find("trainjobs", NAME) is None)
        until(lambda: not trainer.pods(NAME))


def test_an_evicted_launcher_leaves_the_job_to_its_retry(api, deed):
    with Trainer(api, Script(ticks=400, at_end=deed.finish)) as trainer:
        task = launcher_process(api, deed.folder)
        until(lambda: trainer.made and trainer.pods(NAME))
        conditions = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]
        api.change("pods", POD, lambda pod: pod["status"].update(conditions=conditions))
        task.send_signal(signal.SIGTERM)
        assert task.wait(timeout=20) == 128 + signal.SIGTERM
        assert "evicted" in task.stdout.read()
        assert api.find("trainjobs", NAME) is not None
        launch(api, deed)
    assert len(trainer.made) == 1 and deed.finished()


def test_a_deadline_ends_the_job_and_the_job_goes(api, deed):
    with Trainer(api, Script(end="never")) as trainer:
        with pytest.raises(ClusterError, match="deadline_hours"):
            launch(api, deed, trainjob={"deadline_hours": 0.0003})
        until(lambda: api.find("trainjobs", NAME) is None)
        assert trainer.pods(NAME) == []


def test_a_deadline_that_trainer_does_not_keep_is_kept_by_the_task(api, deed, monkeypatch):
    monkeypatch.setattr("nvembed.cluster.launching._DEADLINE_GRACE", 0.1)
    monkeypatch.setattr("cluster.fake_trainer._past_deadline", lambda tree: False)
    with Trainer(api, Script(end="never")):
        with pytest.raises(ClusterError, match="deadline_hours"):
            launch(api, deed, trainjob={"deadline_hours": 0.0003})
        until(lambda: api.find("trainjobs", NAME) is None)


def test_a_job_that_somebody_deletes_is_missed(api, deed):
    deed.look = lambda: deed.attempts and api.remove("trainjobs", NAME)
    with Trainer(api, Script(end="never")), pytest.raises(ClusterError, match="was deleted while"):
        launch(api, deed)


@pytest.mark.parametrize(
    "fault",
    ["503", "drop-after", *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("429", "500", "drop", "cut"))],
)
def test_one_try_in_three_fails_and_nothing_comes_of_it(api, deed, fault, caplog):
    caplog.set_level(logging.INFO)
    count = [0]

    def every_third(*_):
        count[0] += 1
        return fault if count[0] % 3 == 0 else None

    api.faults = every_third
    with Trainer(api, Script(end="fail"), Script(ticks=6, at_end=deed.finish)) as trainer:
        with pytest.raises(ClusterError, match="illegal memory access"):
            launch(api, deed, patience=60)
        caplog.clear()
        launch(api, deed, patience=60)
    assert len(trainer.made) == 2 and deed.finished()
    told = [record.getMessage() for record in caplog.records if record.name == "nvembed.ranks"]
    steps = [one for one in told if one.startswith("[node 0] ")]
    assert steps == [f"[node 0] [rank 0] step {step}" for step in range(1, 7)]  # none lost, none twice


def test_a_creation_whose_answer_was_lost_makes_one_job(api, deed):
    lost = iter(["drop-after"])
    api.faults = lambda method, path, _: next(lost, None) if method == "POST" and path.endswith("trainjobs") else None
    with Trainer(api, Script(at_end=deed.finish)) as trainer:
        launch(api, deed)
    assert len(requests(api, "POST", "trainjobs")) == 2 and len(trainer.made) == 1


def test_a_watch_that_is_too_old_is_begun_anew(api, deed):
    def old(method, path, query):
        return "410" if "watch" in query else None

    api.faults = old
    script = Script(end="never", at_end=deed.finish)
    deed.look = lambda: len(requests(api, "GET", "watch=True")) >= 2 and setattr(script, "end", "complete")
    with Trainer(api, script):
        launch(api, deed)
    assert len(requests(api, "GET", "watch=True")) >= 2 and deed.finished()


def test_an_api_that_stays_away_ends_the_task_and_not_the_job(api, deed):
    with Trainer(api, Script(end="never")):
        deed.look = lambda: setattr(api, "faults", lambda *_: "503")
        with pytest.raises(ClusterError, match="no answer for 0 s"):
            launch(api, deed, patience=0.3)
        assert api.find("trainjobs", NAME) is not None


def test_a_right_that_is_taken_away_while_it_runs_ends_the_task_and_not_the_job(api, deed):
    with Trainer(api, Script(end="never")):
        deed.look = lambda: api.denied.add(("list", "pods"))
        with pytest.raises(UserError, match='cannot list resource "pods"'):
            launch(api, deed)
        assert api.find("trainjobs", NAME) is not None


def test_two_launchers_at_once_share_one_job(api, deed):
    with Trainer(api, Script(ticks=40, at_end=deed.finish)) as trainer:
        tasks = [
            threading.Thread(target=Launch(cluster(api), resources(), POD, RUN, QUICK).run, args=(Deed(deed.folder),))
            for _ in range(3)
        ]
        for task in tasks:
            task.start()
        for task in tasks:
            task.join(timeout=30)
    assert len(trainer.made) == 1 and deed.finished()
