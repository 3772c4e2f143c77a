"""One stage by itself: what a pipeline task does, with folders of one's own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nvembed.cli.options import read_recipe, recipe_options
from nvembed.cli.plans import plan_options, show_plans
from nvembed.core import lifeline
from nvembed.core.artifacts import MANIFEST
from nvembed.core.errors import UserError
from nvembed.recipe import section_json


def folder_option(name: str, help_text: str, *, required: bool = True) -> Callable[..., Any]:
    return click.option(name, type=click.Path(path_type=Path), required=required, help=help_text)


@click.command()
@recipe_options
@folder_option("--out", "Folder for the training examples.")
@folder_option("--eval-out", "Folder for the held-out sets.")
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Shards of a mix, made one after another; what comes out is the same.",
)
def prepare(recipe: str, overrides: tuple[str, ...], out: Path, eval_out: Path, shards: int) -> None:
    """Read, split and report the data. Of a mix, blocks that an earlier attempt finished are kept."""
    from nvembed import data

    checked = read_recipe(recipe, overrides)
    begin(out, eval_out)
    data.check_source(checked.data)
    from nvembed.steps import prepare_data

    prepare_data(section_json(checked.data), str(out), str(eval_out), shards=shards)
    done(out, eval_out)


@click.command()
@recipe_options
@folder_option("--dataset", "What `nvembed prepare` wrote.")
@folder_option("--out", "Folder for the dataset with its hard negatives.")
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Shares of the passages, searched one after another; what comes out is the same.",
)
def mine(recipe: str, overrides: tuple[str, ...], dataset: Path, out: Path, shards: int) -> None:
    """Mine hard negatives. Vectors and neighbours that an earlier attempt found are kept."""
    checked = read_recipe(recipe, overrides)
    _needs(dataset, "--dataset")
    begin(out)
    from nvembed.steps import mine_hard_negatives

    mining, resources = section_json(checked.mining), section_json(checked.resources)
    mine_hard_negatives(mining, resources, str(dataset), str(out), shards=shards)
    done(out)


@click.command()
@recipe_options
@click.option("--stage", type=click.Choice(["stage1", "stage2"]), default="stage1", show_default=True)
@folder_option("--dataset", "What `nvembed mine` (or `prepare`) wrote.", required=False)
@folder_option("--init", "The adapter to start from: stage 1's, for stage 2.", required=False)
@folder_option(
    "--eval-sets", "What `nvembed prepare` held out: the dev split for the stage's dev_check.", required=False
)
@folder_option(
    "--resume", "A checkpoint (step-…) to go on from; default: the newest one of this very work.", required=False
)
@folder_option("--out", "Folder for the trained adapter.", required=False)
@plan_options
def train(
    recipe: str,
    overrides: tuple[str, ...],
    stage: str,
    dataset: Path | None,
    init: Path | None,
    eval_sets: Path | None,
    resume: Path | None,
    out: Path | None,
    **plan: Any,
) -> None:
    """Train stage 1 or stage 2. Killed and started again, it goes on from its last checkpoint.

    With --plan nothing is trained: it says what the stage needs and how it would run.
    """
    checked = read_recipe(recipe, overrides)
    if dataset is not None:
        _needs(dataset, "--dataset")
    if plan["plan"]:
        show_plans(checked, [stage], dataset, **plan)
        return
    if dataset is None or out is None:
        raise click.UsageError("Missing option '--dataset' or '--out'; only --plan goes without.")
    if init is not None:
        _needs(init, "--init")
    if eval_sets is not None:
        _needs(eval_sets, "--eval-sets")
    begin(out)
    from nvembed.steps import train as train_step

    train_step(
        stage,
        section_json(getattr(checked, stage)),
        section_json(checked.model),
        section_json(checked.resources),
        str(dataset),
        str(out),
        init=str(init) if init else None,
        resume=str(resume) if resume else None,
        eval_sets=str(eval_sets) if eval_sets else None,
    )
    done(out)


@click.command()
@recipe_options
@click.option("--candidate", type=click.Choice(["bm25", "base", "stage1", "stage2"]), required=True)
@folder_option("--eval-sets", "The held-out sets that `nvembed prepare` wrote.")
@folder_option("--adapter", "The adapter of stage1 or stage2.", required=False)
@click.option("--share", metavar="K/N", help="The K-th of N shares of the tasks, K from 1; default: all of them.")
@folder_option("--out", "Folder for the results.")
def evaluate(
    recipe: str,
    overrides: tuple[str, ...],
    candidate: str,
    eval_sets: Path,
    adapter: Path | None,
    share: str | None,
    out: Path,
) -> None:
    """Measure one model on the held-out sets and the recipe's benchmarks.

    Finished tasks are kept: killed and started again, it does only what is missing.
    """
    checked = read_recipe(recipe, overrides)
    _needs(eval_sets, "--eval-sets")
    if (candidate in ("stage1", "stage2")) != (adapter is not None):
        raise UserError(f"--adapter: {candidate} {'needs one' if adapter is None else 'takes none'}")
    if adapter is not None:
        _needs(adapter, "--adapter")
    begin(out)
    from nvembed.evaluation.plan import read_item
    from nvembed.steps import evaluate as evaluate_step
    from nvembed.steps.door import resolved_evaluation

    item = f"{candidate} {share}" if share else candidate
    read_item(item)
    evaluation = resolved_evaluation(checked)
    adapters = {candidate: str(adapter)} if adapter else {}
    sections = (section_json(evaluation), section_json(checked.model), section_json(checked.resources))
    evaluate_step(item, *sections, str(eval_sets), adapters, str(out))
    done(out)


def _needs(folder: Path, option: str) -> None:
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{option} {folder}: no {MANIFEST} there; give a folder that one of nvembed's stages wrote")


def begin(*outputs: Path) -> None:
    """Refuse to replace what is not ours; show the library's log; end workers with us."""
    from nvembed.cli.preflight import check_writable

    for folder in outputs:
        check_writable(folder, option="--out")
        if folder.exists() and not (folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))):
            raise UserError(f"--out {folder}: is there already and not nvembed's; name another folder")
    logging.getLogger("nvembed").setLevel(logging.INFO)
    lifeline.announce_self()


def done(*outputs: Path) -> None:
    for folder in outputs:
        click.echo(str(folder))
