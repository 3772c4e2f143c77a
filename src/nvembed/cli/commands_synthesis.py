"""`nvembed synthesize`: language models write examples; with --dry-run only what that would take is told."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvembed.cli.commands_stages import begin, done
from nvembed.cli.options import read_recipe, recipe_options
from nvembed.core.errors import UserError
from nvembed.recipe import Recipe, Synthesis, section_json

if TYPE_CHECKING:
    from nvembed.synthesis import Part


@click.command()
@recipe_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the training examples.")
@click.option("--eval-out", type=click.Path(path_type=Path), help="Folder for the held-out sets.")
@click.option("--dry-run", is_flag=True, help="Ask nothing: print requests, tokens and cost.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: JSON instead of a table.")
def synthesize(
    recipe: str,
    overrides: tuple[str, ...],
    out: Path | None,
    eval_out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write queries for documents, and examples of tasks, by the language models that the recipe names.

    Answers are kept in NVEMBED_STATE as they come: killed and started again, it asks for what is missing.
    """
    checked = read_recipe(recipe, overrides)
    if not checked.synthesis.enabled:
        raise UserError("synthesis.enabled is false; set synthesis.enabled=true and name synthesis.endpoints")
    if dry_run:
        _show_plan(_resolved(checked), as_json)
        return
    if out is None or eval_out is None:
        raise click.UsageError("Missing option '--out' or '--eval-out'; only --dry-run goes without.")
    begin(out, eval_out)
    from nvembed.steps import synthesize_data

    synthesize_data(section_json(_resolved(checked)), str(out), str(eval_out))
    done(out, eval_out)


def _resolved(recipe: Recipe) -> Synthesis:
    from nvembed.mining.teachers import check_mining
    from nvembed.steps.synthetic import resolved_synthesis

    return resolved_synthesis(recipe, check_mining(recipe.mining))


def _show_plan(section: Synthesis, as_json: bool) -> None:
    from nvembed.synthesis import plan

    parts = plan(section)
    if as_json:
        click.echo(json.dumps([asdict(part) for part in parts], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("", "requests", "answered already", "tokens sent", "tokens answered", "cost", "at most", box=None)
    for part in (*parts, _total(parts)):
        numbers = [f"{number:,}" for number in (part.requests, part.known, part.sent, part.answered)]
        table.add_row(part.name, *numbers, *(_money(amount) for amount in (part.cost, part.most)))
    console = Console(width=100, highlight=False)
    console.print(table)
    caps = section.caps.model_dump(exclude_none=True)
    console.print(f"caps: {', '.join(f'{name} {value:g}' for name, value in caps.items()) or 'none'}")
    console.print("Tokens are estimated; answers that cannot be used are asked for once more and come on top.")


def _total(parts: list[Part]) -> Part:
    from nvembed.synthesis import Part

    def money(name: str) -> float | None:
        amounts = [getattr(part, name) for part in parts]
        return None if None in amounts else sum(amounts)

    requests, known, sent, answered = (
        sum(getattr(part, name) for part in parts) for name in ("requests", "known", "sent", "answered")
    )
    return Part("in all", requests, known, sent, answered, money("cost"), money("most"))


def _money(amount: float | None) -> str:
    return "price not given" if amount is None else f"{amount:.4f}"
