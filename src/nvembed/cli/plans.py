"""`--plan`: what training needs of a machine and how it would run there, as a table or as JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nvembed.core.errors import UserError
from nvembed.recipe import Recipe

if TYPE_CHECKING:
    from nvembed.training.machine import Machine
    from nvembed.training.plan import Plan


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--plan` and what describes another machine."""
    options = [
        click.option("--plan", is_flag=True, help="Train nothing: say what it needs and how it would run."),
        click.option("--json", "as_json", is_flag=True, help="With --plan: JSON instead of a table."),
        click.option("--gpus", type=click.IntRange(1), help="With --plan: GPUs of a node of another machine."),
        click.option("--gpu-memory", metavar="SIZE", help="With --plan: memory of each GPU, as 80GB."),
        click.option("--chip", help="With --plan: its GPU by name, as H100, for an estimate of time."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def show_plans(
    recipe: Recipe,
    stages: list[str],
    dataset: Path | None,
    *,
    plan: bool,
    as_json: bool,
    gpus: int | None,
    gpu_memory: str | None,
    chip: str | None,
) -> None:
    """Print the plan of each stage. Raises UserError (exit code 2) if one does not fit."""
    from nvembed.modeling.sizes import read_sizes
    from nvembed.training.plan import make_plan
    from nvembed.training.settings import check_settings, token_lengths

    del plan
    machine = _machine(recipe, gpus, gpu_memory, chip)
    sizes = read_sizes(recipe.model)
    plans = []
    for name in stages:
        stage = getattr(recipe, name)
        check_settings(name, stage, recipe.model, recipe.resources)
        lengths = token_lengths(name, recipe.model, stage, dataset) if dataset is not None else None
        plans.append(make_plan(name, stage, recipe.model, machine, lengths=lengths, sizes=sizes))
    if as_json:
        click.echo(json.dumps([one.to_dict() for one in plans], indent=2))
    else:
        _print(plans, machine)
    for one in plans:
        if not one.fits:
            raise UserError(one.why)


def _machine(recipe: Recipe, gpus: int | None, memory: str | None, chip: str | None) -> Machine:
    import torch

    from nvembed.training.machine import described_machine, this_machine

    resources = recipe.resources
    if gpus is not None or memory is not None:
        if memory is None:
            raise UserError("--gpus: give --gpu-memory too, as 80GB")
        return described_machine(gpus or 1, memory, chip, resources.nodes)
    if chip is not None:
        raise UserError("--chip: describes another machine; give --gpus and --gpu-memory too")
    gpu = torch.cuda.is_available()
    if resources.device == "cuda" and not gpu:
        raise UserError(
            "resources.device is cuda, but this machine has no usable GPU; describe the one you mean: "
            "--gpus 1 --gpu-memory 80GB --chip H100"
        )
    device = "cuda" if gpu and resources.device != "cpu" else "cpu"
    return this_machine(resources, device, rate=True, precision=recipe.model.precision)


def _print(plans: list[Plan], machine: Machine) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(80, min(120, shutil.get_terminal_size((100, 40)).columns)))
    ranks = f"{machine.ranks} rank{'s' if machine.ranks > 1 else ''} of {machine.memory / 1e9:.0f} GB"
    console.print(f"{ranks}; {machine.about}", highlight=False)
    if plans[0].assumed:
        console.print(
            f"The configuration of {plans[0].assumed} is not cached and cannot be had: its known shape is used.",
            highlight=False,
        )
    table = Table("", *(one.stage for one in plans), box=None, header_style="bold")
    columns = [list(_rows(one)) for one in plans]
    for cells in zip(*columns, strict=True):
        name, style = cells[0][0], "bold" if cells[0][0] in ("does it fit", "needed, of what can be used") else None
        table.add_row(name, *(value for _, value in cells), style=style)
    console.print(table)
    for one in plans:
        for warning in one.warnings:
            console.print(f"{one.stage}: {warning}", highlight=False)


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    """Lines of the table, the same for each plan."""
    settings, load, parameters = plan.settings(), plan.load, plan.parameters
    yield "does it fit", "yes" if plan.fits else "no"
    for key, value in settings.items():
        yield key, f"{value:,}" if isinstance(value, int) and value > 99 else str(value).lower()
    yield "gradient cache", "on" if plan.gradient_cache else "off"
    yield "computes in", plan.precision
    yield "parameters", f"{parameters['total']:,}, {parameters['trained']:,} of them trained"
    told = "measured on the dataset" if load.measured else "at the most"
    yield "a rank's step", f"{load.texts:,} texts, {load.tokens:,} tokens ({told})"
    for part, size in plan.memory.items():
        yield f"  {part}", _size(size)
    yield "needed, of what can be used", f"{_size(plan.memory_needed)} of {_size(plan.memory_available)} a rank"
    yield "operations a step and rank", f"{plan.flops_per_step / 1e12:,.2f} TFLOP"
    yield "time a step", _time(plan.seconds_per_step)
    yield "time in all", _time(plan.seconds)
    for part, size in plan.disk.items():
        yield f"disk: {part}", _size(size)


def _size(size: float) -> str:
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= power:
            return f"{size / power:,.1f} {unit}"
    return f"{size:.0f} B"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    if seconds < 120:
        return f"about {seconds:.1f} s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"about {hours} h {rest:02d} min" if hours else f"about {rest} min"
