"""`nvembed recipe list|show|validate`."""

from __future__ import annotations

import click
import yaml

from nvembed.cli.options import read_recipe
from nvembed.recipe import list_presets

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
def show(name: str, overrides: tuple[str, ...]) -> None:
    """A recipe with every default written out, as YAML that `--recipe` takes again."""
    tree = read_recipe(name, overrides).model_dump(mode="json")
    click.echo(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120), nl=False)


@recipe.command()
@click.argument("name")
@_SET
def validate(name: str, overrides: tuple[str, ...]) -> None:
    """Check a recipe; exit code 2 and one line if something in it is wrong."""
    checked = read_recipe(name, overrides)
    click.echo(f"{name}: valid (recipe {checked.name})")
