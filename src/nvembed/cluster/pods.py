"""The pods of a TrainJob: what they wait for, how they ended, their logs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from nvembed.cluster.api import Cluster, NotFound
from nvembed.cluster.logs import PodLog
from nvembed.cluster.trainjob import CONTAINER, JOBSET
from nvembed.core.errors import UserError

logger = logging.getLogger(__name__)
ranks_log = logging.getLogger("nvembed.ranks")
_NEVER_STARTS = {
    "ErrImagePull": "its image cannot be pulled",
    "ImagePullBackOff": "its image cannot be pulled",
    "InvalidImageName": "its image's name is wrong",
    "CreateContainerConfigError": "what its environment refers to is missing",
    "CreateContainerError": "its container cannot be made",
}
_MENDING = {
    "its image cannot be pulled": "push it, or correct the pipeline's parameter image and its pull secret",
    "its image's name is wrong": "correct the pipeline's parameter image",
    "what its environment refers to is missing": "make the config map or secret that the message names",
    "its container cannot be made": "see the message",
}
_VOLUME_EVENTS = ("FailedAttachVolume", "FailedMount")


class NeverStarts(UserError):
    """A pod waits for what will not come before the user has mended it."""


class Pods:
    """Watches one job's pods.

    Args:
        cluster: where they are.
        job: the TrainJob's name.
        stuck_after: seconds for which a pod may be unable to start before that ends the job: a registry may be away
            for a moment.
        start_seconds: seconds for which a pod may find no node; None: for ever.
        pause: seconds between two tries to read a log.
    """

    def __init__(
        self, cluster: Cluster, job: str, *, stuck_after: float, start_seconds: float | None, pause: float = 1.0
    ) -> None:
        self._cluster, self._job, self._stuck_after, self._pause = cluster, job, stuck_after, pause
        self._start_seconds = start_seconds
        self._logs: dict[str, PodLog] = {}
        self._trees: dict[str, dict[str, Any]] = {}
        self._since: dict[tuple[str, str], float] = {}
        self._said: set[str] = set()

    def look(self) -> None:
        """See what has changed: follow new logs, say what pods wait for.

        Raises NeverStarts.
        """
        found = {pod["metadata"]["name"]: pod for pod in self._cluster.pods(f"{JOBSET}={self._job}")}
        self._trees |= found
        for name, pod in found.items():
            if name not in self._logs and _has_started(pod):
                self._follow(name, pod)
            self._check_start(name, pod)

    def finish(self, seconds: float = 10.0) -> None:
        """Wait for what is left of ended pods' logs, and leave the others."""
        deadline = time.monotonic() + seconds
        for name, log in self._logs.items():
            log.finish(max(0.0, deadline - time.monotonic()) if _is_over(self._trees[name]) else 0.0)

    def blame(self) -> str:
        """The pod that failed first: how it ended, what was told about it, its last lines. Empty if none did."""
        failed = [(_end(pod), name) for name, pod in self._trees.items() if _failed(pod)]
        if not failed:
            return "; ".join(_told(self._cluster, self._job))
        _, name = min(failed)
        pod = self._trees[name]
        lines = list(self._logs[name].tail) if name in self._logs and self._logs[name].tail else self._last_lines(name)
        events = _told(self._cluster, name) + _told(self._cluster, self._job)
        parts = [f"pod {name} (node {_index(pod)}) {_how(pod)}", *(f"event: {event}" for event in events), *lines]
        return "\n".join(parts)

    def _follow(self, name: str, pod: Mapping[str, Any]) -> None:
        node = _index(pod)
        log = PodLog(
            self._cluster,
            name,
            CONTAINER,
            lambda line: ranks_log.info("[node %s] %s", node, line),
            lambda: _is_over(self._trees[name]),
            pause=self._pause,
        )
        self._logs[name] = log
        log.start()

    def _last_lines(self, name: str) -> list[str]:
        try:
            text = self._cluster.call(
                f"read the log of {name}",
                self._cluster.core.read_namespaced_pod_log,
                name,
                self._cluster.namespace,
                container=CONTAINER,
                tail_lines=30,
            )
        except (UserError, NotFound):
            return []
        return str(text).splitlines()

    def _check_start(self, name: str, pod: Mapping[str, Any]) -> None:
        waiting = _waiting(pod)
        if waiting and (why := _NEVER_STARTS.get(waiting.get("reason", ""))):
            if self._lasts(name, why) >= self._stuck_after:
                message = waiting.get("message") or "; ".join(_told(self._cluster, name))
                raise NeverStarts(f"pod {name} does not start: {why} ({message}); {_MENDING[why]}")
        elif nowhere := _unschedulable(pod):
            self._say(f"pod {name} waits for a node: {nowhere}")
            if self._start_seconds is not None and self._lasts(name, "no node") >= self._start_seconds:
                raise NeverStarts(
                    f"pod {name} found no node within resources.trainjob.start_minutes: {nowhere}; lower "
                    "accelerators, memory or cpu of resources, or correct node_selector and tolerations"
                )
        elif pod.get("status", {}).get("phase") == "Pending" and self._lasts(name, "pending") >= self._stuck_after:
            self._check_volumes(name)

    def _check_volumes(self, name: str) -> None:
        for event in self._cluster.events(name):
            if event.get("reason") in _VOLUME_EVENTS:
                message = " ".join(event.get("message", "").split())
                if "Multi-Attach" in message:
                    raise NeverStarts(
                        f"pod {name}: {message}; the volume is on one node at a time: give the claim a storage class "
                        "with ReadWriteMany"
                    )
                self._say(f"pod {name} waits for a volume: {message}")

    def _lasts(self, name: str, what: str) -> float:
        """Seconds since this was first seen of this pod."""
        now = time.monotonic()
        return now - self._since.setdefault((name, what), now)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)


def _container(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((one for one in statuses if one["name"] == CONTAINER), {})


def _waiting(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return _container(pod).get("state", {}).get("waiting") or {}


def _terminated(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return _container(pod).get("state", {}).get("terminated") or {}


def _has_started(pod: Mapping[str, Any]) -> bool:
    state = _container(pod).get("state", {})
    return bool(state.get("running") or state.get("terminated"))


def _is_over(pod: Mapping[str, Any]) -> bool:
    return bool(_terminated(pod)) or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _failed(pod: Mapping[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") == "Failed" or _terminated(pod).get("exitCode", 0) != 0


def _end(pod: Mapping[str, Any]) -> str:
    return str(_terminated(pod).get("finishedAt") or "~")  # behind every time


def _how(pod: Mapping[str, Any]) -> str:
    ended, status = _terminated(pod), pod.get("status", {})
    code, reason = ended.get("exitCode"), ended.get("reason") or status.get("reason") or ""
    said = f"ended with exit code {code}" if code is not None else "failed"
    if reason == "OOMKilled":
        return f"{said}: its memory ran out (OOMKilled); raise resources.memory or lower micro_batch_tokens"
    detail = " ".join(part for part in (reason, status.get("message", "")) if part and part != "Error")
    return f"{said}: {detail}" if detail else said


def _index(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"].get("annotations", {}).get("batch.kubernetes.io/job-completion-index", "?"))


def _unschedulable(pod: Mapping[str, Any]) -> str:
    for one in pod.get("status", {}).get("conditions") or []:
        if one["type"] == "PodScheduled" and one["status"] == "False" and one.get("reason") == "Unschedulable":
            return " ".join(one.get("message", "no reason is given").split())
    return ""


def _told(cluster: Cluster, name: str) -> list[str]:
    """Warnings among an object's events, the newest last, each once."""
    found = [
        f"{event.get('reason', '')}: {' '.join((event.get('message') or '').split())}"
        for event in cluster.events(name)
        if event.get("type") == "Warning"
    ]
    return list(dict.fromkeys(found))[-5:]
