"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nvembed.core.errors import UserError
from nvembed.recipe import Recipe, load_recipe


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--recipe` and `--set`."""
    command = click.option(
        "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one value; may be repeated."
    )(command)
    return click.option(
        "--recipe", default="laptop", show_default=True, help="Name of a recipe that ships, or path of a YAML file."
    )(command)


def output_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--output-dir`."""
    return click.option(
        "--output-dir",
        type=click.Path(path_type=Path),
        default=Path("nvembed-out"),
        show_default=True,
        help="Where everything goes that a run leaves.",
    )(command)


def read_recipe(recipe: str, overrides: tuple[str, ...]) -> Recipe:
    """The checked recipe. Raises UserError."""
    return load_recipe(recipe, overrides)


def overrides_parameter(overrides: tuple[str, ...]) -> str:
    """What the pipeline's `overrides` parameter gets: one a line. Raises UserError for one that holds a line end."""
    for override in overrides:
        if "\n" in override.strip():
            raise UserError(
                f"override {override!r}: holds a line end; write its value in double quotes with \\n, as YAML reads it"
            )
    return "\n".join(overrides)


def recipe_parameter(recipe: str) -> str:
    """What the pipeline's `recipe` parameter gets: a preset's name, or the text of a file (a pod has no such file)."""
    if recipe.endswith((".yaml", ".yml")):
        text = Path(recipe).read_text(encoding="utf-8")
        return text if "\n" in text else text + "\n"
    return recipe
