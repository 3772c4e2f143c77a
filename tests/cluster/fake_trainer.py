"""Stands in for Trainer, JobSet, Kueue, the scheduler and the kubelet: brings TrainJobs of the fake API to their end.

What becomes of a job is a `Script`, found by the number of jobs made before it. Time is counted in ticks.
"""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from cluster.fake_routes import Tree
from cluster.fake_store import Api, Log, now

RUNTIME: Tree = {
    "metadata": {"name": "torch-distributed"},
    "spec": {
        "mlPolicy": {"numNodes": 1, "torch": {}},
        "template": {
            "spec": {
                "replicatedJobs": [
                    {"name": "node", "template": {"spec": {"template": {"spec": {"containers": [{"name": "node"}]}}}}}
                ]
            }
        },
    },
}


@dataclass
class Script:
    """What becomes of a job.

    Attributes:
        queued: ticks it is suspended, if it names a queue.
        pending: ticks its pods find no node, or cannot start.
        why_pending: what a pending pod shows: `unschedulable`, `image`, `multi-attach`.
        ticks: that it runs; each pod says a line in each.
        end: `complete`, `fail` (the last node's pod first), or `never`.
        at_end: called before a job is complete: writes the result.
        run: run the pods' command for real; then `ticks` and `end` are its own.
    """

    queued: int = 0
    pending: int = 0
    why_pending: str = "unschedulable"
    ticks: int = 3
    end: str = "complete"
    at_end: Callable[[], None] = lambda: None
    run: bool = False


@dataclass
class _Job:
    script: Script
    tick: int = 0
    let_go: int | None = None
    started: int | None = None
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)


class Trainer:
    """Context manager: a thread that looks after the API's TrainJobs.

    `scripts` are of the jobs in the order of their making; the last one goes for all that follow.
    """

    def __init__(self, api: Api, *scripts: Script, tick: float = 0.01, environment: dict[str, str] | None = None):
        self.api, self.scripts, self._tick = api, list(scripts or (Script(),)), tick
        self.made: list[str] = []  # uids of all jobs there were, in order
        self.names: dict[str, str] = {}
        self._environment = environment or {}
        self._jobs: dict[str, _Job] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Trainer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for job in self._jobs.values():
            for process in job.processes.values():
                process.kill()

    def _run(self) -> None:
        while not self._stop.wait(self._tick):
            self.api.collect()
            jobs = self.api.all("trainjobs")
            for tree in jobs:
                self._look(tree)
            living = {tree["metadata"]["uid"] for tree in jobs}
            for uid, job in self._jobs.items():
                if uid not in living:
                    for process in job.processes.values():
                        process.terminate()

    def _look(self, tree: Tree) -> None:
        metadata = tree["metadata"]
        uid, name = metadata["uid"], metadata["name"]
        if uid not in self._jobs:
            self._jobs[uid] = _Job(self.scripts[min(len(self.made), len(self.scripts) - 1)])
            self.made.append(uid)
            self.names[uid] = name
        job = self._jobs[uid]
        if metadata.get("deletionTimestamp") or _ended(tree):
            return
        job.tick += 1
        if "kueue.x-k8s.io/queue-name" in metadata.get("labels", {}) and job.tick <= job.script.queued:
            self._condition(name, "Suspended", "True", "Suspended", suspend=True)
            return
        if job.let_go is None:
            job.let_go = job.tick
            if tree["spec"].get("suspend"):
                self._condition(name, "Suspended", "False", "Resumed", suspend=False)
            self._make_pods(tree)
        if _past_deadline(tree):
            self._remove_pods(name)
            self._condition(name, "Failed", "True", "DeadlineExceeded", "TrainJob exceeded its active deadline")
        elif job.tick - job.let_go < job.script.pending:
            self._pend(tree, job.script.why_pending)
        elif job.started is None:
            job.started = job.tick
            self._start_pods(tree, job)
        elif job.script.run:
            self._look_at_processes(tree, job)
        else:
            self._work(tree, job)

    def _work(self, tree: Tree, job: _Job) -> None:
        assert job.started is not None
        step, name = job.tick - job.started, tree["metadata"]["name"]
        for index, pod in enumerate(self.pods(name)):
            self.api.say(pod, f"[rank {index}] step {step}")
        if step < job.script.ticks or job.script.end == "never":
            return
        if job.script.end == "complete":
            job.script.at_end()
            for pod in self.pods(name):
                self._end_pod(pod, 0)
            self._condition(name, "Complete", "True", "AllJobsCompleted", "jobset completed successfully")
        else:
            last = self.pods(name)[-1]
            self.api.say(last, f"[rank {len(self.pods(name)) - 1}] RuntimeError: CUDA error: an illegal memory access")
            self._end_pod(last, 1)
            self.api.tell(last, "BackOff", "Back-off restarting failed container node")
            self._remove_pods(name, but=last)
            self._condition(name, "Failed", "True", "FailedJobs", "jobset failed due to one or more job failures")

    def pods(self, job: str) -> list[str]:
        """Names of a job's pods, by index."""
        found = [pod for pod in self.api.all("pods") if _of(pod) == job]
        return sorted(pod["metadata"]["name"] for pod in found)

    def _make_pods(self, tree: Tree) -> None:
        metadata = tree["metadata"]
        for index in range(tree["spec"]["trainer"]["numNodes"]):
            pod = {
                "metadata": {
                    "name": f"{metadata['name']}-node-0-{index}-{uuid.uuid4().hex[:5]}",
                    "labels": {"jobset.sigs.k8s.io/jobset-name": metadata["name"]},
                    "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
                    "ownerReferences": [
                        {"apiVersion": "v1", "kind": "TrainJob", "name": metadata["name"], "uid": metadata["uid"]}
                    ],
                },
                "spec": {"containers": [{"name": "node", "image": tree["spec"]["trainer"]["image"]}]},
                "status": {"phase": "Pending"},
            }
            self.api.put("pods", pod)

    def _pend(self, tree: Tree, why: str) -> None:
        status: Tree = {"phase": "Pending"}
        image = tree["spec"]["trainer"]["image"]
        if why == "unschedulable":
            message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
            status["conditions"] = [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            ]
        elif why == "image":
            waiting = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}
            status["containerStatuses"] = [_container({"waiting": waiting})]
        for name in self.pods(tree["metadata"]["name"]):
            first = self.api.find("pods", name)
            self.api.change("pods", name, lambda pod: pod.update(status=status))
            if why == "multi-attach" and first and first["status"] == {"phase": "Pending"} and not self._told(name):
                message = 'Multi-Attach error for volume "pvc-1" Volume is already exclusively attached to one node'
                self.api.tell(name, "FailedAttachVolume", message)

    def _told(self, name: str) -> bool:
        return any(event["involvedObject"]["name"] == name for event in self.api.all("events"))

    def _start_pods(self, tree: Tree, job: _Job) -> None:
        for name in self.pods(tree["metadata"]["name"]):
            status = {"phase": "Running", "containerStatuses": [_container({"running": {"startedAt": now()}})]}
            self.api.change("pods", name, lambda pod, status=status: pod.update(status=status))  # type: ignore[misc]
            self.api.logs.setdefault(("team", name), Log())
            if job.script.run:
                job.processes[name] = self._process(tree, name)

    def _process(self, tree: Tree, pod: str) -> subprocess.Popen[str]:
        trainer, names = tree["spec"]["trainer"], self.pods(tree["metadata"]["name"])
        command = trainer["command"]
        assert command[0] == "nvembed"
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("NVEMBED_", "KUBE", "MLFLOW"))},
            **{one["name"]: one["value"] for one in trainer["env"] if "value" in one},
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": str(names.index(pod)),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(20000 + int(tree["metadata"]["uid"][:4], 16) % 10000),
            **self._environment,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "nvembed.cli", *command[1:]],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                self.api.say(pod, line.rstrip("\n"))

        threading.Thread(target=read, daemon=True).start()
        return process

    def _look_at_processes(self, tree: Tree, job: _Job) -> None:
        codes = {pod: process.poll() for pod, process in job.processes.items()}
        name = tree["metadata"]["name"]
        if any(codes.values()):
            for pod, code in codes.items():
                if code:
                    self._end_pod(pod, code)
            self._condition(name, "Failed", "True", "FailedJobs", "jobset failed due to one or more job failures")
        elif all(code == 0 for code in codes.values()):
            for pod in codes:
                self._end_pod(pod, 0)
            self._condition(name, "Complete", "True", "AllJobsCompleted", "jobset completed successfully")

    def _end_pod(self, name: str, code: int) -> None:
        state = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": now()}}
        status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [_container(state)]}
        self.api.change("pods", name, lambda pod: pod.update(status=status))
        self.api.end_log(name)

    def _remove_pods(self, job: str, but: str = "") -> None:
        for name in self.pods(job):
            if name != but:
                self.api.remove("pods", name)

    def _condition(
        self, name: str, kind: str, status: str, reason: str, message: str = "", *, suspend: bool | None = None
    ) -> None:
        def edit(tree: Tree) -> None:
            if suspend is not None:
                tree["spec"]["suspend"] = suspend
            conditions = tree.setdefault("status", {}).setdefault("conditions", [])
            old = next((one for one in conditions if one["type"] == kind), None)
            if old is not None and old["status"] == status:
                return
            if old is not None:
                conditions.remove(old)
            made = {"type": kind, "status": status, "reason": reason, "message": message}
            conditions.append({**made, "lastTransitionTime": now()})

        self.api.change("trainjobs", name, edit)


def _of(pod: Tree) -> str:
    return pod["metadata"].get("labels", {}).get("jobset.sigs.k8s.io/jobset-name", "")


def _container(state: Tree) -> Tree:
    return {"name": "node", "state": state, "image": "i", "imageID": "", "ready": False, "restartCount": 0}


def _ended(tree: Tree) -> bool:
    conditions = tree.get("status", {}).get("conditions", [])
    return any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions)


def _past_deadline(tree: Tree) -> bool:
    seconds = tree["spec"].get("activeDeadlineSeconds")
    if not seconds:
        return False
    then = datetime.fromisoformat(tree["metadata"]["creationTimestamp"]).timestamp()
    return time.time() > then + seconds
