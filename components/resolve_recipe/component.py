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
        ("cpu", str),
        ("memory", str),
        ("accelerator", str),
        ("accelerators", str),
        ("train_cpu", str),
        ("train_memory", str),
        ("train_accelerators", str),
        ("tolerations", list),
        ("node_selector", dict),
    ],
):
    """Check a recipe, write the digests of its data and models into it, and open the run in MLflow.

    Args:
        recipe: A preset's name or a recipe's whole text.
        overrides: Changes to the recipe, `section.key=value`, one a line.

    Returns:
        Each section as canonical JSON, the candidates to evaluate (with their shares of the tasks), the shards to
        prepare and to mine, and what the other tasks' pods get.
    """
    import json
    from collections import namedtuple

    from nvembed.steps import resolve_recipe as step

    sections = step(recipe, overrides)
    fields = ["model", "data", "synthesis", "mining", "stage1", "stage2"]
    fields += ["evaluation", "registration", "resources"]
    values = [sections[name] for name in fields]
    texts = ["cpu", "memory", "accelerator", "accelerators", "train_cpu", "train_memory", "train_accelerators"]
    values += [sections[name] for name in texts]
    names = ["candidates", "shards", "mine_shards", "tolerations", "node_selector"]
    trees = [json.loads(sections[name]) for name in names]
    return namedtuple("Sections", [*fields, *texts, *names])(*values, *trees)
