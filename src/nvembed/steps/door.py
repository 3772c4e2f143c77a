"""Bad input is met here, before anything is written: by `nvembed run` and again by the first task."""

from __future__ import annotations

from pathlib import Path

from nvembed.core.errors import UserError
from nvembed.recipe import Recipe


def check_recipe(recipe: Recipe) -> Recipe:
    """The recipe with the content digests of its models and data written in, ready to be handed on.

    A changed file, backbone or teacher thereby changes a section, and so is a cache miss.

    Raises:
        UserError: a backbone that is unknown, missing or too short for `max_length`; data that cannot be used; a
            recipe for a GPU on a machine without one.
    """
    from nvembed import data, modeling

    _check_device(recipe)
    modeling.check_section(recipe.model)
    model = recipe.model.model_copy(update={"digest": modeling.backbone_digest(recipe.model)})
    mining = recipe.mining
    if mining.enabled:
        modeling.check_section(mining.teacher)
        teacher = mining.teacher.model_copy(update={"digest": modeling.backbone_digest(mining.teacher)})
        mining = mining.model_copy(update={"teacher": teacher})
    source = recipe.data
    if source.path is not None and "://" not in source.path:
        source = source.model_copy(update={"path": str(Path(source.path).expanduser().resolve())})
    source = source.model_copy(update={"digest": data.check_source(source).digest})
    return recipe.model_copy(update={"model": model, "mining": mining, "data": source})


def _check_device(recipe: Recipe) -> None:
    if recipe.resources.device != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f"recipe {recipe.name}: resources.device is cuda, but this machine has no usable GPU; "
            "submit it to a cluster (`nvembed submit`) or run with --set resources.device=cpu"
        )
