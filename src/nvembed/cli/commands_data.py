"""`nvembed data check`: are all sources of a recipe's mix there, as the recipe has them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from nvembed.cli.options import read_recipe
from nvembed.core.errors import UserError


@click.group()
def data() -> None:
    """Try the sources of a recipe's mix."""


@data.command()
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one value.")
@click.option(
    "--fixtures",
    type=click.Path(path_type=Path),
    help="A folder in place of the hub, <repo>/<config>/<split>.parquet; read through. Short for data.hub_mirror.",
)
@click.option("--read", is_flag=True, help="Read every source through and count, not its first rows alone.")
@click.option("--json", "as_json", is_flag=True, help="For programs, with a finished example of each that was read.")
def check(recipe: str, overrides: tuple[str, ...], fixtures: Path | None, read: bool, as_json: bool) -> None:
    """Try every source: is it there, in its revision, with its columns, under its licence.

    Exit code 2 if one cannot be had; each is told in the table.
    """
    from nvembed.cli.sources_table import check_rows, check_table, print_table
    from nvembed.data.adapters import check_mix
    from nvembed.recipe import what_falls_out

    section = read_recipe(recipe, overrides).data
    if section.source != "mix":
        raise UserError(f"recipe {recipe}: its data is {section.path or section.source}, not a mix of sources")
    if fixtures is not None:
        section = section.model_copy(update={"hub_mirror": str(fixtures)})
    found = check_mix(section, read=read or fixtures is not None)
    if as_json:
        click.echo(json.dumps(check_rows(found), indent=2, ensure_ascii=False))
    else:
        print_table(check_table(found))
        if said := what_falls_out(section.sources, section.forbid_licenses):
            click.echo(said)
    if found.failed:
        names = ", ".join(state.name for state in found.failed)
        raise UserError(f"{len(found.failed)} of {len(found.states)} sources cannot be had: {names}")
