"""KFP component: a recipe becomes the sections that the other tasks take."""

from typing import NamedTuple

from kfp import dsl

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def resolve_recipe(
    recipe: str,
    overrides: str = "",
) -> NamedTuple(
    "Sections",
    [
        ("model", str),
        ("data", str),
        ("synthesis", str),
        ("mining", str),
        ("stage1", str),
        ("stage2", str),
        ("evaluation", str),
        ("registration", str),
        ("resources", str),
        ("candidates", list),
        ("shards", list),
        ("mine_shards", list),
    ],
):
    """Check a recipe, write the digests of its data and models into it, and open the run in MLflow.

    Args:
        recipe: A preset's name or a recipe's whole text.
        overrides: Changes to the recipe, `section.key=value`, one a line.

    Returns:
        Each section as canonical JSON, the names of the candidates to evaluate, and the shards to prepare and
        to mine.
    """
    import json
    from collections import namedtuple

    from nvembed.steps import resolve_recipe as step

    sections = step(recipe, overrides)
    candidates = json.loads(sections["evaluation"])["candidates"]
    fields = ["model", "data", "synthesis", "mining", "stage1", "stage2"]
    fields += ["evaluation", "registration", "resources"]
    values = [sections[name] for name in fields]
    lists = [candidates, json.loads(sections["shards"]), json.loads(sections["mine_shards"])]
    return namedtuple("Sections", [*fields, "candidates", "shards", "mine_shards"])(*values, *lists)
