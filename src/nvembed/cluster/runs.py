"""Runs on a Kubeflow Pipelines server: which there are, how their tasks stand, what they print, how to end one."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nvembed.cluster.submit import ENDED, Submission, connect, own_tasks, plain_errors, token
from nvembed.core.errors import UserError

_LOG = "/apis/v1alpha1/runs/{run}/nodes/{node}/log"  # the API server's one route for logs, in every version so far


@dataclass(frozen=True)
class Task:
    """A task of a run. `pods` are those it ran in, as far as the server tells."""

    name: str
    state: str
    pods: tuple[str, ...]
    error: str = ""


@dataclass(frozen=True)
class Run:
    """A run. `created` is UTC, ISO 8601."""

    run_id: str
    name: str
    state: str
    created: str
    tasks: tuple[Task, ...] = ()
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in ENDED


def latest(endpoint: str, *, experiment: str = "nvembed", namespace: str | None = None, count: int = 10) -> list[Run]:
    """The newest runs of an experiment, newest first. Raises UserError where the server refuses."""
    client = connect(endpoint, namespace)
    with plain_errors(endpoint):
        try:
            found = client.get_experiment(experiment_name=experiment, namespace=namespace)
        except ValueError:
            return []
        page = client.list_runs(experiment_id=found.experiment_id, page_size=count, sort_by="created_at desc")
    return [read_run(run) for run in page.runs or []]


def find(endpoint: str, wanted: str, *, experiment: str = "nvembed", namespace: str | None = None) -> Run:
    """The run with this id or name, `latest`, or the only one whose id or name begins so. Raises UserError."""
    client = connect(endpoint, namespace)
    if len(wanted) == 36 and wanted.count("-") == 4:
        with plain_errors(endpoint):
            return read_run(client.get_run(wanted))
    runs = latest(endpoint, experiment=experiment, namespace=namespace, count=100)
    chosen = runs[:1] if wanted == "latest" else [run for run in runs if wanted in (run.run_id, run.name)]
    chosen = chosen or [run for run in runs if run.run_id.startswith(wanted) or run.name.startswith(wanted)]
    if len(chosen) != 1:
        known = ", ".join(run.name for run in (chosen or runs)[:5]) or "none"
        said = "several match" if chosen else f"no such run in experiment {experiment}"
        raise UserError(f"run {wanted!r}: {said}; there are {known}")
    with plain_errors(endpoint):
        return read_run(client.get_run(chosen[0].run_id))


def cancel(endpoint: str, run: Run, *, namespace: str | None = None) -> None:
    """End a run; its training jobs go with it (`nvembed reap` sees to that). Raises UserError if it has ended."""
    if run.ended:
        raise UserError(f"run {run.name} has ended already, as {run.state}")
    client = connect(endpoint, namespace)
    with plain_errors(endpoint):
        client.terminate_run(run.run_id)


def log(endpoint: str, run: Run, pod: str, *, follow: bool = False, timeout: float = 30) -> Iterator[str]:
    """The lines that a task's pod printed; with `follow` as they come.

    Raises UserError where the server has none: a pod that is gone and whose log was not archived.
    """
    path = _LOG.format(run=urllib.parse.quote(run.run_id), node=urllib.parse.quote(pod))
    request = urllib.request.Request(f"{endpoint}{path}{'?follow=true' if follow else ''}")
    if known := token():
        request.add_unredirected_header("Authorization", f"Bearer {known}")
    try:
        with urllib.request.urlopen(request, timeout=None if follow else timeout) as answer:
            for line in answer:
                yield line.decode("utf-8", errors="replace").rstrip("\n")
    except urllib.error.HTTPError as error:
        raise UserError(
            f"--endpoint {endpoint}: has no log of {pod} ({error.code}); is the pod gone? "
            "Its lines are in the artifact store if KFP archives logs"
        ) from None
    except (urllib.error.URLError, OSError) as error:
        raise UserError(f"--endpoint {endpoint}: the log broke off ({getattr(error, 'reason', error)})") from None


def submission(endpoint: str, run: Run) -> Submission:
    """What `wait` follows."""
    return Submission(run.run_id, f"{endpoint}/#/runs/details/{run.run_id}", endpoint)


def read_run(answer: Any) -> Run:
    """The server's answer as a `Run`; tasks in the order in which they began."""
    own = sorted(own_tasks(answer), key=lambda one: str(one.start_time or one.create_time or "~"))
    return Run(
        run_id=answer.run_id,
        name=answer.display_name or answer.run_id,
        state=answer.state or "PENDING",
        created=str(answer.created_at or ""),
        tasks=tuple(Task(one.display_name, one.state or "PENDING", _pods(one), _error(one.error)) for one in own),
        error=_error(answer.error),
    )


def _pods(task: Any) -> tuple[str, ...]:
    children = [child.pod_name for child in task.child_tasks or [] if child.pod_name]
    return tuple(dict.fromkeys(([task.pod_name] if task.pod_name else []) + children))


def _error(error: Any) -> str:
    return str(error.message or "") if error else ""
