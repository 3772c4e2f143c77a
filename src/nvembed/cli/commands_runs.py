"""`nvembed status`, `nvembed logs` and `nvembed cancel`: runs on a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from nvembed.cli.commands_cluster import follow_run
from nvembed.cli.commands_tracking import print_table
from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from nvembed.cluster.runs import Run, Task


def _where(command: Callable[..., Any]) -> Callable[..., Any]:
    @click.option("--endpoint", help="Kubeflow Pipelines' address; default: KFP_ENDPOINT.")
    @click.option("--experiment", default="nvembed", show_default=True)
    @click.option("--namespace", help="Your profile's namespace, where Kubeflow has several users.")
    @functools.wraps(command)
    def with_endpoint(*args: Any, endpoint: str | None, **kwargs: Any) -> Any:
        from nvembed.cluster.submit import check_endpoint, find_endpoint

        address = find_endpoint(endpoint)
        check_endpoint(address)
        return command(*args, endpoint=address, **kwargs)

    return with_endpoint


@click.command()
@click.argument("run", required=False)
@_where
@click.option("--wait", is_flag=True, help="Follow RUN to its end; the exit code is the run's.")
@click.option("--poll", type=float, default=10.0, show_default=True, help="Seconds between two looks with --wait.")
def status(run: str | None, endpoint: str, experiment: str, namespace: str | None, wait: bool, poll: float) -> None:
    """Runs on the cluster, and how their tasks stand.

    The newest runs, or the tasks of RUN: an id, a name, the beginning of one, or `latest`.
    """
    from nvembed.cluster.runs import find, latest, submission

    if run is None:
        runs = latest(endpoint, experiment=experiment, namespace=namespace)
        rows = [("name", "state", "created", "run")]
        rows += [(one.name, one.state.lower(), one.created[:19], one.run_id) for one in runs]
        print_table(rows if runs else [(f"no run in experiment {experiment} yet",)])
        return
    found = find(endpoint, run, experiment=experiment, namespace=namespace)
    if wait:
        follow_run(submission(endpoint, found), poll)
        return
    _show(found)


@click.command()
@click.argument("run")
@click.argument("task", required=False)
@_where
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come.")
def logs(run: str, task: str | None, endpoint: str, experiment: str, namespace: str | None, follow: bool) -> None:
    """What a run's tasks printed on the cluster.

    With TASK of that one alone, otherwise of those that failed or run.
    """
    from nvembed.cluster.runs import find, log

    found = find(endpoint, run, experiment=experiment, namespace=namespace)
    for one in _chosen(found, task):
        for pod in one.pods:
            click.echo(f"== {one.name} ({pod})")
            for line in log(endpoint, found, pod, follow=follow):
                click.echo(line)


@click.command()
@click.argument("run")
@_where
def cancel(run: str, endpoint: str, experiment: str, namespace: str | None) -> None:
    """End a run on the cluster."""
    from nvembed.cluster import runs

    found = runs.find(endpoint, run, experiment=experiment, namespace=namespace)
    runs.cancel(endpoint, found, namespace=namespace)
    click.echo(f"run {found.name} is being ended")


def _show(run: Run) -> None:
    click.echo(f"{run.name}: {run.state.lower()} ({run.run_id})")
    rows = [(f"  {task.name}", task.state.lower(), " ".join(task.error.split())[:160]) for task in run.tasks]
    if rows:
        print_table(rows)
    if run.error:
        click.echo(f"error: {' '.join(run.error.split())}")


def _chosen(run: Run, name: str | None) -> list[Task]:
    if name is None:
        chosen = [task for task in run.tasks if task.state in ("FAILED", "RUNNING")]
    else:
        plain = name.replace("_", "-")
        chosen = [task for task in run.tasks if task.name == plain or task.name.startswith(f"{plain}-")]
    if not any(task.pods for task in chosen):
        known = ", ".join(dict.fromkeys(task.name for task in run.tasks if task.pods)) or "none yet"
        said = "none of its tasks failed or runs" if name is None else f"no task {name!r} with a pod"
        raise UserError(f"run {run.name}: {said}; tasks with a log: {known}")
    return chosen
