"""`nvembed recipe list|show|validate`."""

from __future__ import annotations

import json
from importlib.util import find_spec

import click
import yaml

from nvembed.cli.options import read_recipe
from nvembed.recipe import list_presets, what_falls_out

_SET = click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one value.")


@click.group()
def recipe() -> None:
    """List, show and check recipes."""


@recipe.command("list")
def list_() -> None:
    """Recipes that ship."""
    presets = list_presets()
    width = max(len(name) for name in presets)
    for name, description in presets.items():
        click.echo(f"{name:<{width}}  {' '.join(description.split())}")


@recipe.command()
@click.argument("name")
@_SET
@click.option("--sources", is_flag=True, help="The datasets of its mix as a table; marks: F found, M from memory.")
@click.option("--json", "as_json", is_flag=True, help="With --sources: for programs.")
def show(name: str, overrides: tuple[str, ...], sources: bool, as_json: bool) -> None:
    """A recipe with every default written out, as YAML that `--recipe` takes again."""
    if sources or as_json:
        _show_sources(name, overrides, as_json=as_json)
        return
    tree = read_recipe(name, overrides).model_dump(mode="json")
    click.echo(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120), nl=False)


def _show_sources(name: str, overrides: tuple[str, ...], *, as_json: bool) -> None:
    from nvembed.cli.sources_table import print_table, source_rows, source_table

    checked = read_recipe(name, overrides)
    if as_json:
        click.echo(json.dumps(source_rows(checked.data), indent=2, ensure_ascii=False))
        return
    if not checked.data.sources:
        click.echo(f"{checked.name}: its data is {checked.data.path or checked.data.source}, not a mix of sources")
        return
    print_table(source_table(checked.data))
    if said := what_falls_out(checked.data.sources, checked.data.forbid_licenses):
        click.echo(said)


@recipe.command()
@click.argument("name")
@_SET
def validate(name: str, overrides: tuple[str, ...]) -> None:
    """Check a recipe; exit code 2 and one line if something in it is wrong."""
    checked = read_recipe(name, overrides)
    if (checked.evaluation.benchmarks or checked.evaluation.tasks) and find_spec("mteb"):
        from nvembed.evaluation.selection import choose_tasks

        choose_tasks(checked.evaluation)
    click.echo(f"{name}: valid (recipe {checked.name})")
