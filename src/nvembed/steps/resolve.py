"""The first task: a recipe becomes sections, with the digests of all they name written in."""

from __future__ import annotations

import os

from nvembed import tracking
from nvembed.core.digests import canonical_json
from nvembed.recipe import Resources, load_recipe, section_json
from nvembed.recipe.schema import SECTIONS
from nvembed.steps.door import check_recipe
from nvembed.steps.task import task


def resolve_recipe(recipe: str, overrides: str = "") -> dict[str, str]:
    """Sections by name, each as canonical JSON, for the tasks that follow.

    `candidates`, `shards` and `mine_shards` are JSON lists of what evaluation, data preparation and mining are divided
    into; `pods` tells of the rest.

    Args:
        recipe: a preset's name or a recipe's whole text.
        overrides: `section.key=value`, one a line.

    The only task that creates the run's parent in MLflow; all others find it.
    """
    from nvembed.cluster.uploads import check_paths_in_pod
    from nvembed.data.shards import plan_shards, shard_json
    from nvembed.evaluation.plan import plan_items
    from nvembed.mining import plan_shards as plan_mining

    with task("resolve_recipe"):
        lines = [line for line in overrides.splitlines() if line.strip()]
        asked = load_recipe(recipe, lines)
        if os.environ.get("KFP_RUN_ID"):  # only Kubeflow's pods have it
            check_paths_in_pod(asked)
        resolved = check_recipe(asked)
        tracking.open_parent(tracking.pipeline_run_id(), resolved, overrides=lines)
        shards = plan_shards(resolved.data, resolved.resources.prepare_shards)
        planned = [shard_json(number, shard) for number, shard in enumerate(shards)]
        lists = {
            "candidates": plan_items(resolved.evaluation),
            "shards": planned,
            "mine_shards": plan_mining(resolved.mining, resolved.resources.mine_shards),
        }
        sections = {name: section_json(getattr(resolved, name)) for name in SECTIONS}
        return sections | {name: canonical_json(items) for name, items in lists.items()} | pods(resolved.resources)


def pods(resources: Resources) -> dict[str, str]:
    """What tasks' pods get, for the pipeline to set: texts, of `tolerations` and `node_selector` JSON.

    `train_…` is for the tasks that train; where a TrainJob brings the nodes, they only wait for it.
    """
    own = {"cpu": resources.cpu, "memory": resources.memory, "accelerators": str(resources.accelerators)}
    waits = {"cpu": "1", "memory": "4Gi", "accelerators": "0"}
    trains = waits if resources.launcher == "trainjob" else own
    return {
        **own,
        "accelerator": resources.accelerator,
        **{f"train_{name}": value for name, value in trains.items()},
        "tolerations": canonical_json([one.model_dump(exclude_none=True) for one in resources.tolerations]),
        "node_selector": canonical_json(resources.node_selector),
    }
