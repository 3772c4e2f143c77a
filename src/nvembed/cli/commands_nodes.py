"""`nvembed reap`, and what the pods of a TrainJob run."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from nvembed.cli.app import Failure


@click.command()
@click.option("--namespace", help="Where pipelines run; default: this pod's own, or NVEMBED_NAMESPACE.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
def reap(namespace: str | None, dry_run: bool) -> None:
    """Remove TrainJobs whose pipeline run has ended.

    That run's open MLflow runs are marked KILLED. Jobs of runs that go on, and jobs of others, are left alone. For a
    CronJob.
    """
    from nvembed.cluster.api import connect
    from nvembed.cluster.checks import check_rights
    from nvembed.cluster.reaping import RIGHTS
    from nvembed.cluster.reaping import reap as one_round

    if namespace:
        os.environ["NVEMBED_NAMESPACE"] = namespace
    cluster = connect(patience=120)
    check_rights(cluster, RIGHTS)
    done = one_round(cluster, dry_run=dry_run)
    for name, run_id in done.removed.items():
        click.echo(f"{'would remove' if dry_run else 'removed'} {name} of run {run_id}")
    click.echo(f"{len(done.removed)} removed, {len(done.kept)} kept" + (" (dry run)" if dry_run else ""))
    if done.unclosed:
        said = "; ".join(f"{run_id} ({why})" for run_id, why in done.unclosed.items())
        raise Failure(f"MLflow runs that could not be closed, to be tried again next time: {said}")


@click.command("train-node", hidden=True)
@click.argument("request", type=click.Path(path_type=Path))
def train_node(request: Path) -> None:
    """One node's part of a training stage: what a TrainJob's pods run."""
    from nvembed.training.nodes import train_node as run_node

    logging.getLogger("nvembed").setLevel(logging.INFO)
    if code := run_node(request):
        raise click.exceptions.Exit(code)
