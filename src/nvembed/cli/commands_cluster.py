"""`nvembed compile` and `nvembed submit`."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvembed.cli.app import Failure
from nvembed.cli.options import overrides_parameter, read_recipe, recipe_options, recipe_parameter
from nvembed.core.errors import UserError
from nvembed.tracking.store import shown

if TYPE_CHECKING:
    from nvembed.cluster.submit import Submission


@click.command("compile")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write; default: pipelines/nvembed.yaml of the checkout.",
)
def compile_(output: Path | None) -> None:
    """Compile the pipeline to YAML.

    Works in a checkout; an installed package ships the compiled file.
    """
    from nvembed.cluster import checkout_root

    root = checkout_root()
    if root is None:
        raise UserError("compile: pipelines/pipeline.py is not here; run it in a checkout of the repository")
    sys.path.insert(0, str(root))
    try:
        pipeline = importlib.import_module("pipelines.pipeline").nvembed_pipeline
    finally:
        sys.path.remove(str(root))
    from kfp import compiler

    target = output or root / "pipelines" / "nvembed.yaml"
    if not target.absolute().parent.is_dir():
        raise UserError(f"--output {target}: there is no such folder; make it first")
    compiler.Compiler().compile(pipeline, str(target))
    click.echo(str(target))


@click.command()
@recipe_options
@click.option("--endpoint", help="Kubeflow Pipelines' address; default: KFP_ENDPOINT.")
@click.option("--experiment", default="nvembed", show_default=True)
@click.option("--name", "run_name", help="The run's name; default: recipe and time.")
@click.option("--namespace", help="Your profile's namespace, where Kubeflow has several users.")
@click.option("--service-account", help="The service account the tasks run as.")
@click.option("--image", help="The image every task runs in; default: as compiled.")
@click.option("--parameter", "-p", "others", multiple=True, metavar="KEY=VALUE", help="Any other pipeline parameter.")
@click.option("--upload-to", metavar="URL", help="Where local data files go: s3://bucket/folder; NVEMBED_UPLOADS.")
@click.option("--every", metavar="CRON", help="Make a recurring run: six fields, seconds first, as '0 0 3 * * 1'.")
@click.option("--wait", is_flag=True, help="Follow the run and its tasks; the exit code is the run's.")
@click.option("--poll", type=float, default=10.0, show_default=True, help="Seconds between two looks with --wait.")
@click.option("--dry-run", is_flag=True, help="Check and show what would be submitted; send nothing.")
def submit(
    recipe: str,
    overrides: tuple[str, ...],
    endpoint: str | None,
    experiment: str,
    run_name: str | None,
    namespace: str | None,
    service_account: str | None,
    image: str | None,
    others: tuple[str, ...],
    upload_to: str | None,
    every: str | None,
    wait: bool,
    poll: float,
    dry_run: bool,
) -> None:
    """Run the same pipeline on a cluster.

    A token, where the server wants one, comes from KFP_TOKEN or KFP_EXISTING_TOKEN.
    """
    from nvembed.cluster import pipeline_file
    from nvembed.cluster.submit import check_endpoint, check_for_cluster, find_endpoint
    from nvembed.cluster.submit import submit as create_run
    from nvembed.cluster.uploads import local_paths, uploaded

    if wait and every:
        raise UserError("--wait: a recurring run has no end to wait for; leave out --wait or --every")
    checked = read_recipe(recipe, overrides)
    check_for_cluster(checked)
    here = local_paths(checked)
    if not dry_run and here:
        check_endpoint(find_endpoint(endpoint))  # before gigabytes are sent for nothing
        overrides += tuple(f"{key}={address}" for key, address in uploaded(here, upload_to).items())
    pipeline = pipeline_file()
    parameters = {
        "recipe": recipe_parameter(recipe),
        "overrides": overrides_parameter(overrides),
        **_parameters(others, pipeline),
    }
    if image:
        parameters["image"] = image
    name = run_name or f"{checked.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if dry_run:
        _show(pipeline, name, experiment, parameters)
        for key, path in here.items():
            click.echo(f"upload      {key}: {path} to {upload_to or 'nowhere yet: give --upload-to'}")
        return
    address = find_endpoint(endpoint)
    check_endpoint(address)
    submission = create_run(
        pipeline,
        parameters,
        endpoint=address,
        experiment=experiment,
        run_name=name,
        namespace=namespace,
        service_account=service_account,
        every=every,
    )
    what = "recurring run" if every else "run"
    click.echo(f"submitted {name} as {what} {submission.run_id}\n{submission.url}")
    if tracking := os.environ.get("MLFLOW_TRACKING_URI"):
        click.echo(f"MLflow: {shown(tracking)}")
    if wait:
        follow_run(submission, poll)


def follow_run(submission: Submission, poll: float) -> None:
    """Print each new state of a run and of its tasks until it ends. Raises Failure unless it succeeded."""
    from nvembed.cluster.submit import wait as follow

    def tell(text: str) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')} {text}")

    state, failures = follow(submission, tell, on_task=lambda task, now: tell(f"  {task}: {now.lower()}"), poll=poll)
    if state != "SUCCEEDED":
        because = f": {failures}" if failures else ""
        raise Failure(f"run {submission.run_id} ended as {state}{because}; see {submission.url}")


def _parameters(given: tuple[str, ...], pipeline: Path) -> dict[str, str]:
    import yaml

    spec = next(yaml.safe_load_all(pipeline.read_text(encoding="utf-8")))
    known = sorted(spec["root"]["inputDefinitions"]["parameters"])
    parameters = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals:
            raise UserError(f"--parameter {one!r}: write it as key=value")
        if key not in known:
            raise UserError(f"--parameter {key!r}: the pipeline has no such parameter; known: {', '.join(known)}")
        parameters[key] = value
    return parameters


def _show(pipeline: Path, name: str, experiment: str, parameters: dict[str, str]) -> None:
    click.echo(f"pipeline    {pipeline}\nexperiment  {experiment}\nrun         {name}")
    for key, value in parameters.items():
        click.echo(f"{key:<11} " + value.rstrip("\n").replace("\n", "\n" + " " * 12))
