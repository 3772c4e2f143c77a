"""The reaper: TrainJobs whose pipeline run has ended go, and that run's MLflow runs are closed.

A run that is terminated, or whose launcher is killed, cannot clean up behind itself. The Argo Workflow with the run's
id says whether the run has ended; where there is none any more, it has, if the job was made by one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nvembed.cluster.api import Cluster, Conflict, NotFound
from nvembed.cluster.jobs import delete_job
from nvembed.cluster.trainjob import GROUP, MANAGED_BY, PLURAL, RUN_LABEL, US, VERSION
from nvembed.core.errors import UserError
from nvembed.tracking import close_parent, tracking_uri

logger = logging.getLogger(__name__)
WORKFLOWS = ("argoproj.io", "v1alpha1", "workflows")
RIGHTS = (
    *((GROUP, PLURAL, "", verb) for verb in ("get", "list", "delete")),
    *((WORKFLOWS[0], WORKFLOWS[2], "", verb) for verb in ("get", "list")),
)
_ENDED = frozenset({"Succeeded", "Failed", "Error"})
_LATELY = 86400.0  # seconds after a run's end in which its MLflow runs are closed, should the server have been away
_YOUNG = 600.0  # seconds; a job so young may be seen before its workflow is


@dataclass
class Reaped:
    """What a round did.

    Attributes:
        removed: job name → run id.
        kept: names of jobs whose run goes on, or of which it is not known.
        closed: run ids whose MLflow runs were looked after.
        unclosed: run id → why its MLflow runs could not be.
    """

    removed: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    unclosed: dict[str, str] = field(default_factory=dict)


def reap(cluster: Cluster, *, dry_run: bool = False, young: float = _YOUNG) -> Reaped:
    """One round over a namespace.

    Args:
        cluster: the namespace.
        dry_run: only say what would be done.
        young: age in seconds below which a job without a workflow is left alone.

    Raises:
        UserError: a right is missing, or the cluster knows no TrainJobs or no Workflows.
        ClusterError: no answer.
    """
    done = Reaped()
    jobs = _list(cluster, (GROUP, VERSION, PLURAL), f"{MANAGED_BY}={US},{RUN_LABEL}")
    # Workflows are listed behind the jobs: one that is retried in between is seen as running.
    workflows = _list(cluster, WORKFLOWS, RUN_LABEL)
    running = {_run_id(one) for one in workflows if not _has_ended(one)}
    ended = {_run_id(one) for one in workflows} - running
    for job in jobs:
        name, run_id = job["metadata"]["name"], _run_id(job)
        if run_id in running or not (run_id in ended or _is_orphan(cluster, job, young)):
            done.kept.append(name)
            continue
        if not dry_run and not _remove(cluster, job):
            continue
        done.removed[name] = run_id
    if dry_run or tracking_uri() is None:
        return done
    lately = {_run_id(one) for one in workflows if _age(one["status"].get("finishedAt")) < _LATELY} & ended
    for run_id in sorted(lately | set(done.removed.values())):
        try:
            close_parent(run_id, "KILLED")
            done.closed.append(run_id)
        except Exception as error:  # noqa: BLE001 - a tracking server that is away must not keep GPUs taken
            done.unclosed[run_id] = f"{type(error).__name__}: {error}"
    return done


def _list(cluster: Cluster, kind: tuple[str, str, str], selector: str) -> list[dict[str, Any]]:
    try:
        return cluster.objects(*kind, selector)
    except NotFound:
        raise UserError(
            f"this cluster has no {kind[2]}.{kind[0]}/{kind[1]}; run the reaper where Kubeflow Pipelines (on Argo "
            "Workflows) and Trainer are installed"
        ) from None


def _is_orphan(cluster: Cluster, job: Mapping[str, Any], young: float) -> bool:
    """Whether a job's own workflow is gone. A job without one was not made by a pipeline: it is not ours to judge."""
    owners = [one for one in job["metadata"].get("ownerReferences", []) if one["kind"] == "Workflow"]
    if not owners or _age(job["metadata"]["creationTimestamp"]) < young:
        return False
    try:
        return cluster.get(*WORKFLOWS, owners[0]["name"])["metadata"]["uid"] != owners[0]["uid"]
    except NotFound:
        return True


def _remove(cluster: Cluster, job: Mapping[str, Any]) -> bool:
    metadata = job["metadata"]
    try:
        delete_job(cluster, metadata["name"], metadata["uid"])
    except (NotFound, Conflict) as error:  # somebody else was faster
        logger.info("%s: %s", metadata["name"], error)
        return False
    return True


def _run_id(thing: Mapping[str, Any]) -> str:
    return str(thing["metadata"]["labels"][RUN_LABEL])


def _has_ended(workflow: Mapping[str, Any]) -> bool:
    return workflow.get("status", {}).get("phase") in _ENDED


def _age(moment: str | None) -> float:
    """Seconds since then; without end for what has no time."""
    if not moment:
        return float("inf")
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
