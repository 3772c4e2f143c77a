"""`nvembed run`: the whole pipeline on this machine."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from nvembed.cli.options import output_dir_option, overrides_parameter, read_recipe, recipe_options, recipe_parameter
from nvembed.cli.plans import plan_options, show_plans


@click.command()
@recipe_options
@output_dir_option
@click.option("--plain", is_flag=True, help="Plain lines, also on a terminal.")
@plan_options
def run(recipe: str, overrides: tuple[str, ...], output_dir: Path, plain: bool, **plan: Any) -> None:
    """Run the whole pipeline on this machine.

    Executes the same compiled pipeline that a cluster gets, with Kubeflow Pipelines' own local runner. What has not
    changed since the last run in the same folder is served from the cache; a run that was killed goes on from its last
    checkpoint. With --plan nothing is run: it says what the two training stages need and how they would run.
    """
    if plan["plan"]:
        show_plans(read_recipe(recipe, overrides), ["stage1", "stage2"], None, **plan)
        return
    from nvembed import tracking
    from nvembed.cli.preflight import check_run
    from nvembed.cli.run import execute, local_image
    from nvembed.cli.screen import clock, make_screen
    from nvembed.cli.summary import show_summary
    from nvembed.cluster import pipeline_file

    started = time.monotonic()
    checked = read_recipe(recipe, overrides)
    given = {"recipe": recipe_parameter(recipe), "overrides": overrides_parameter(overrides)}
    pipeline = pipeline_file()
    tracking_uri = tracking.default_uri(output_dir.expanduser().resolve())
    click.echo("checking recipe, model, data and MLflow")
    check_run(checked, output_dir.expanduser(), tracking_uri)
    screen = make_screen(plain=plain or not sys.stdout.isatty())
    result = execute(pipeline, {**given, "image": local_image()}, output_dir, tracking_uri, screen)
    show_summary(result, output_dir, tracking_uri)
    click.echo(f"finished in {clock(time.monotonic() - started)}")
