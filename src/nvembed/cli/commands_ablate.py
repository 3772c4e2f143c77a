"""`nvembed ablate`: variants of a recipe, trained at one budget and judged alike."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvembed.cli.options import output_dir_option, read_recipe

if TYPE_CHECKING:
    from nvembed.ablation import Runner


@click.command()
@click.option("--recipe", default="ablate", show_default=True, help="A recipe with a section `ablation`.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one value.")
@click.option("--family", "families", multiple=True, help="Only this family; may be repeated. Default: all.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be done and how long it takes, and end.")
@output_dir_option
def ablate(
    recipe: str, overrides: tuple[str, ...], families: tuple[str, ...], only_plan: bool, output_dir: Path
) -> None:
    """Compare variants of a recipe at one budget: which is better, worse, or not resolved.

    The recipe `ablate` takes about an hour on two cores. Says first what will be done and how long it takes here, by a
    few measured steps (once, a minute or two). Learning rates are picked on dev, verdicts are on test. Killed and
    started again, it does only what is missing. Leaves OUTPUT_DIR/ablate with report.html.
    """
    from nvembed.cli.preflight import check_writable
    from nvembed.core import lifeline
    from nvembed.core.state import hold

    checked = read_recipe(recipe, overrides)
    output = output_dir.expanduser().resolve()
    check_writable(output)
    os.environ.setdefault("NVEMBED_STATE", str(output / "state"))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from nvembed.ablation import Runner, make_plan

    plan = make_plan(checked, families)
    lifeline.announce_self()
    logging.getLogger("nvembed").setLevel(logging.INFO)
    state = Path(os.environ["NVEMBED_STATE"]) / "ablation"
    state.mkdir(parents=True, exist_ok=True)
    with hold(state):  # a second one would only wait for the first one's cells
        runner = Runner(plan)
        runner.measure()
        _show_plan(runner)
        if only_plan:
            return
        _run(runner, output / "ablate")


def _run(runner: Runner, out: Path) -> None:
    from nvembed.cli.processes import terminate_as_interrupt
    from nvembed.steps.task import task

    section = runner.plan.recipe.ablation
    assert section is not None
    try:
        with terminate_as_interrupt(), task("ablate", section.model_dump(mode="json")) as run:
            content = runner.run(out)
            run.log_metrics(
                {
                    f"ablate.{family}.{row['variant']}.{row['task']}": row["mean"]
                    for family, found in content["families"].items()
                    for row in found["differences"]
                }
            )
            run.log_folder(out)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; run the same command again to do what is missing") from None
    from nvembed.ablation.report import summary

    click.echo("\n".join(["", *summary(content), "", f"report       {out / 'report.html'}"]))


def _show_plan(runner: Runner) -> None:
    from nvembed.cli.screen import clock

    plan = runner.plan
    for name, arms in plan.arms.items():
        steps, examples = arms[0].budget()
        click.echo(f"{name}: {' · '.join(arm.variant for arm in arms)} (the first is the baseline)")
        click.echo(f"  each {steps} steps, {examples:,} examples; judged on {', '.join(plan.tasks[name])}")
    seeds = ", ".join(map(str, plan.seeds))
    if len(plan.factors) > 1:
        factors = ", ".join(f"{factor:g}" for factor in plan.factors)
        click.echo(f"learning rates × {factors}: picked on dev with seed {plan.seeds[0]}")
    click.echo(f"judged on test with seeds {seeds}")
    missing, total = runner.missing()
    click.echo(f"{total} measurements of cells, {total - missing} of them done; {runner.at_once} cells at a time")
    click.echo(f"about {clock(runner.seconds_left())} to go")
