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
    from nvembed.cluster.spec import Compiled
    from nvembed.cluster.submit import Submission


@click.command("compile")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write; default: pipelines/nvembed.yaml of the checkout.",
)
@click.option("--recipe", help="Write a variant: this recipe as its default, and what is fixed as the recipe says.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="With --recipe: change one value.")
@click.option("--image", help="With --recipe: the image every task runs in.")
@click.option("--parameter", "-p", "others", multiple=True, metavar="KEY=VALUE", help="With --recipe: another default.")
def compile_(
    output: Path | None, recipe: str | None, overrides: tuple[str, ...], image: str | None, others: tuple[str, ...]
) -> None:
    """Compile the pipeline to YAML.

    Works in a checkout; an installed package ships the compiled file. With --recipe that file is taken: its defaults
    become the recipe's, and retries, time limits and shared memory what resources.compiled says.
    """
    if output is not None and not output.absolute().parent.is_dir():
        raise UserError(f"--output {output}: there is no such folder; make it first")
    if recipe is None:
        if overrides or image or others:
            raise UserError("--set, --image and --parameter change a variant's defaults; give --recipe too")
        _compile(output)
        return
    if output is None:
        raise UserError("--recipe: say with --output where the variant goes; the pipeline's own file stays")
    _write_variant(output, recipe, overrides, image, others)
    click.echo(str(output))


def _compile(output: Path | None) -> None:
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
    compiler.Compiler().compile(pipeline, str(target))
    click.echo(str(target))


def _write_variant(
    output: Path, recipe: str, overrides: tuple[str, ...], image: str | None, others: tuple[str, ...]
) -> None:
    from nvembed.cluster.spec import pipeline_file, read_pipeline
    from nvembed.cluster.submit import check_for_cluster
    from nvembed.cluster.uploads import local_paths
    from nvembed.cluster.variant import refuse_local, write_variant

    checked = read_recipe(recipe, overrides)
    check_for_cluster(checked)
    refuse_local(local_paths(checked))
    compiled = read_pipeline(pipeline_file())
    defaults = _defaults(recipe, overrides, image, others, compiled)
    write_variant(compiled, defaults, checked.resources, output)


@click.command()
@recipe_options
@click.option("--endpoint", help="Kubeflow Pipelines' address; default: KFP_ENDPOINT.")
@click.option("--experiment", default="nvembed", show_default=True)
@click.option("--name", "run_name", help="The run's name; default: recipe and time.")
@click.option("--namespace", help="Your profile's namespace, where Kubeflow has several users.")
@click.option("--service-account", help="The service account the tasks run as.")
@click.option("--image", help="The image every task runs in; default: as compiled.")
@click.option(
    "--pipeline",
    "own",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What `nvembed compile --recipe` wrote; default: the pipeline as it ships.",
)
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
    own: Path | None,
    others: tuple[str, ...],
    upload_to: str | None,
    every: str | None,
    wait: bool,
    poll: float,
    dry_run: bool,
) -> None:
    """Run the same pipeline on a cluster.

    A token, where the server wants one, comes from KFP_TOKEN or KFP_EXISTING_TOKEN; in a pod, from Kubeflow.
    """
    from nvembed.cluster.spec import pipeline_file, read_pipeline
    from nvembed.cluster.submit import check_endpoint, check_for_cluster, find_endpoint
    from nvembed.cluster.submit import submit as create_run
    from nvembed.cluster.uploads import local_paths, uploaded
    from nvembed.cluster.variant import misfits

    if wait and every:
        raise UserError("--wait: a recurring run has no end to wait for; leave out --wait or --every")
    checked = read_recipe(recipe, overrides)
    check_for_cluster(checked)
    here = local_paths(checked)
    pipeline = own or pipeline_file()
    compiled = read_pipeline(pipeline)
    if not dry_run and here:
        check_endpoint(find_endpoint(endpoint))  # before gigabytes are sent for nothing
        overrides += tuple(f"{key}={address}" for key, address in uploaded(here, upload_to).items())
    parameters = _defaults(recipe, overrides, image, others, compiled)
    for line in misfits(compiled, checked.resources):
        click.echo(line, err=True)
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


def _defaults(
    recipe: str, overrides: tuple[str, ...], image: str | None, others: tuple[str, ...], compiled: Compiled
) -> dict[str, str]:
    """The pipeline's parameters that are said, by name."""
    parameters = {"recipe": recipe_parameter(recipe), "overrides": overrides_parameter(overrides)}
    known = sorted(compiled.parameters)
    for one in others:
        key, equals, value = one.partition("=")
        if not equals:
            raise UserError(f"--parameter {one!r}: write it as key=value")
        if key not in known:
            raise UserError(f"--parameter {key!r}: the pipeline has no such parameter; known: {', '.join(known)}")
        parameters[key] = value
    return {**parameters, **({"image": image} if image else {})}


def _show(pipeline: Path, name: str, experiment: str, parameters: dict[str, str]) -> None:
    click.echo(f"pipeline    {pipeline}\nexperiment  {experiment}\nrun         {name}")
    for key, value in parameters.items():
        click.echo(f"{key:<11} " + value.rstrip("\n").replace("\n", "\n" + " " * 12))
