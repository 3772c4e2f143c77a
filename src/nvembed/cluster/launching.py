"""Training on a TrainJob's nodes: make the job or find it again, wait for it, and see that it is gone when it must be.

A job outlives the pod that made it, since a retry of the task takes it up again:

    no job                         make one
    running, suspended, queued     wait for it
    complete, the result is there  take it
    failed, or of other work       delete it, make a new one, which goes on from the last checkpoint
    being deleted                  wait until it is gone, then make one

It is deleted when the task is told to end (SIGTERM), unless the pod is merely moved elsewhere (its condition
`DisruptionTarget`): then a retry will want it. A job whose launcher just vanished is the reaper's (`reaping`).
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nvembed.cluster.api import Cluster, ClusterError, Conflict, NotFound, connect
from nvembed.cluster.checks import RIGHTS, check_cluster, check_rights
from nvembed.cluster.jobs import KIND, create_job, delete_job, get_job, let_go, wait_until_gone
from nvembed.cluster.pods import NeverStarts, Pods
from nvembed.cluster.trainjob import ATTEMPT, GROUP, VERSION, WORK, Here, condition, job_name, train_job
from nvembed.core.errors import UserError
from nvembed.core.lifeline import sigterm_raises
from nvembed.core.progress import note
from nvembed.recipe import Resources
from nvembed.tracking import pipeline_run_id

logger = logging.getLogger(__name__)
COMMAND = ("nvembed", "train-node")
_DEADLINE_GRACE = 120.0  # seconds left to Trainer, which keeps the deadline itself from 2.2 on
_FAREWELL = 20.0  # seconds to delete a job in; a pod is killed 30 after SIGTERM


class Work(Protocol):
    """What is to be trained (`nvembed.training.nodes.Work`)."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def request(self) -> Callable[[str], Path]: ...
    @property
    def look(self) -> Callable[[], None]: ...
    @property
    def finished(self) -> Callable[[], bool]: ...


@dataclass(frozen=True)
class Timing:
    """Seconds: between two looks, until a pod that cannot start ends the job, between two tries to read a log."""

    look: float = 10.0
    stuck: float = 300.0
    logs: float = 1.0


def on_nodes(resources: Resources, work: Work) -> None:
    """Have a stage trained by a TrainJob in this pod's namespace; returns when it is complete.

    Raises:
        UserError: there is no cluster or pipeline run here; a right, the runtime, the queue, an RWX volume or an
            accelerator is missing; a pod can never start.
        ClusterError: the job failed, was deleted by others or passed its deadline.
    """
    run_id = pipeline_run_id()
    if run_id is None or not os.environ.get("KUBERNETES_SERVICE_HOST"):
        raise UserError(
            "resources.launcher is trainjob, which only a pipeline's pod on a cluster can bring up; use `nvembed "
            "submit`, or set resources.launcher=pod"
        )
    cluster = connect()
    pod = os.environ.get("KFP_POD_NAME") or socket.gethostname()
    Launch(cluster, resources, pod, run_id).run(work)


class Launch:
    """One task's dealings with its job.

    Args:
        cluster: the namespace of the task's pod.
        resources: the recipe's section.
        pod: the name of the task's pod.
        run_id: of the pipeline run.
        timing: how often things are looked at.
    """

    def __init__(
        self, cluster: Cluster, resources: Resources, pod: str, run_id: str, timing: Timing | None = None
    ) -> None:
        self._cluster, self._resources, self._pod, self._run_id = cluster, resources, pod, run_id
        self._timing = timing or Timing()
        self._uid: str | None = None  # of the job we made or took up
        self._name = ""
        self._said = ""

    def run(self, work: Work) -> None:
        """Make the job or find it, and wait for its end. See `on_nodes` for what it raises."""
        self._name = job_name(self._run_id, work.name)
        try:
            with sigterm_raises():
                check_rights(self._cluster, RIGHTS)
                if not self._attach(work):
                    return
                self._wait(work)
        except NeverStarts:
            self._delete()
            raise
        except (SystemExit, KeyboardInterrupt):
            self._leave()
            raise

    def _attach(self, work: Work) -> bool:
        """See to it that a job of this work is under way. False if it is complete."""
        while True:
            try:
                job = get_job(self._cluster, self._name)
            except NotFound:
                if self._create(work):
                    return True
                continue
            uid, metadata = job["metadata"]["uid"], job["metadata"]
            if metadata.get("deletionTimestamp"):
                wait_until_gone(self._cluster, self._name, uid, min(1.0, self._timing.look))
            elif metadata.get("annotations", {}).get(WORK) != work.digest:
                note(f"TrainJob {self._name} is of other work: it is replaced")
                self._delete_and_wait(uid)
            elif condition(job, "Complete"):
                if work.finished():
                    note(f"TrainJob {self._name} was complete already")
                    return False
                note(f"TrainJob {self._name} is complete, but its result is gone: it is made anew")
                self._delete_and_wait(uid)
            elif failed := condition(job, "Failed"):
                note(
                    f"TrainJob {self._name} has failed ({failed.get('reason', '')}): a new one goes on from the last "
                    "checkpoint"
                )
                self._delete_and_wait(uid)
            else:
                self._uid = uid
                note(f"TrainJob {self._name} is under way already: this task waits for it")
                return True

    def _create(self, work: Work) -> bool:
        """Make the job. False if another one of its name came in between."""
        here = Here.of(self._cluster.pod(self._pod))
        check_cluster(self._cluster, self._resources, here)
        attempt = uuid.uuid4().hex[:12]
        job = train_job(
            self._resources,
            here,
            namespace=self._cluster.namespace,
            run_id=self._run_id,
            stage=work.name,
            work=work.digest,
            attempt=attempt,
            command=[*COMMAND, str(work.request(attempt))],
        )
        try:
            made = create_job(self._cluster, job)
        except Conflict:
            # Ours, if the answer to an earlier try was lost on its way.
            try:
                made = get_job(self._cluster, self._name)
            except NotFound:
                return False
            if made["metadata"].get("annotations", {}).get(ATTEMPT) != attempt:
                return False
        except NotFound as error:
            raise UserError(f"{error}: this cluster has no {GROUP}/{VERSION}; install Kubeflow Trainer") from None
        self._uid = made["metadata"]["uid"]
        nodes, ranks = self._resources.nodes, self._resources.processes
        note(f"TrainJob {self._name} is made: {nodes} nodes with {ranks} processes each")
        return True

    def _wait(self, work: Work) -> None:
        """Wait for the job's end, as long as the queue takes."""
        wanted, timing = self._resources.trainjob, self._timing
        pods = Pods(
            self._cluster,
            self._name,
            stuck_after=timing.stuck,
            start_seconds=wanted.start_minutes * 60 if wanted.start_minutes else None,
            pause=timing.logs,
        )
        while True:
            try:
                job = get_job(self._cluster, self._name)
            except NotFound:
                job = None
            if job is None or job["metadata"]["uid"] != self._uid:
                self._uid = None
                raise ClusterError(f"TrainJob {self._name} was deleted while this task waited for it")
            complete, failed = condition(job, "Complete"), condition(job, "Failed")
            pods.look()
            self._look(work)
            if complete:
                pods.finish()
                note(f"TrainJob {self._name} is complete")
                return
            if failed:
                self._fail(pods, failed)
            self._check_deadline(job)
            self._say_where_it_stands(job)
            since = job["metadata"]["resourceVersion"]
            for _ in self._cluster.changes(*KIND, self._name, since, timing.look):
                break

    def _fail(self, pods: Pods, failed: Mapping[str, Any]) -> None:
        pods.finish()
        blame = pods.blame()
        said = " ".join(part for part in (failed.get("reason", ""), failed.get("message", "")) if part)
        if failed.get("reason") == "DeadlineExceeded":
            self._delete()
            raise ClusterError(f"TrainJob {self._name} passed resources.trainjob.deadline_hours and was ended")
        raise ClusterError(f"TrainJob {self._name} failed: {said}\n{blame}".rstrip())

    def _check_deadline(self, job: Mapping[str, Any]) -> None:
        hours = self._resources.trainjob.deadline_hours
        if hours is None or condition(job, "Suspended") or job["spec"].get("suspend"):
            return
        if time.time() - let_go(job) > hours * 3600 + _DEADLINE_GRACE:
            self._delete()
            raise ClusterError(f"TrainJob {self._name} passed resources.trainjob.deadline_hours and was ended")

    def _say_where_it_stands(self, job: Mapping[str, Any]) -> None:
        queue = self._resources.trainjob.queue
        waits = condition(job, "Suspended") or job["spec"].get("suspend")
        word = (f"waits in queue {queue}" if queue else "is suspended") if waits else "is let go"
        if word != self._said:
            self._said = word
            note(f"TrainJob {self._name} {word}")

    def _look(self, work: Work) -> None:
        try:
            work.look()
        except OSError as error:  # a volume that is slow for a moment ends no training
            logger.warning("the state folder cannot be read: %s", error)

    def _leave(self) -> None:
        """We are told to end. The job goes, too, unless it is only this pod that must."""
        self._cluster.patience = _FAREWELL
        if self._is_evicted():
            note(f"this pod is evicted; TrainJob {self._name} runs on for the task's next try")
            return
        note(f"this task is ended, and TrainJob {self._name} with it")
        self._delete(by_name=True)

    def _is_evicted(self) -> bool:
        try:
            pod = self._cluster.pod(self._pod)
        except (ClusterError, UserError, NotFound):
            return False
        conditions = pod.get("status", {}).get("conditions") or []
        return any(one["type"] == "DisruptionTarget" and one["status"] == "True" for one in conditions)

    def _delete(self, *, by_name: bool = False) -> None:
        """Delete the job that is ours; `by_name`: one whose creation we did not hear of, too."""
        uid = self._uid
        try:
            if uid is None and by_name:
                uid = get_job(self._cluster, self._name)["metadata"]["uid"]
            if uid is not None:
                delete_job(self._cluster, self._name, uid)
        except (NotFound, Conflict):
            pass
        except (ClusterError, UserError) as error:
            logger.error("TrainJob %s could not be deleted: %s; the reaper will", self._name, error)

    def _delete_and_wait(self, uid: str) -> None:
        try:
            delete_job(self._cluster, self._name, uid)
        except (NotFound, Conflict):
            return
        wait_until_gone(self._cluster, self._name, uid, min(1.0, self._timing.look))
