"""The pipeline's own run: opened by the first task, found by the others, closed by the last."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nvembed.core.digests import code_digest, digest_json
from nvembed.core.lifeline import ENVIRONMENT as PROCESS
from nvembed.core.lifeline import process_identity
from nvembed.recipe import Recipe
from nvembed.tracking.store import check_server, tracking_uri
from nvembed.tracking.sync import send_spools

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)
PROCESS_TAG = "nvembed.process"
_STATUS = {
    "SUCCEEDED": "FINISHED",
    "FINISHED": "FINISHED",
    "CANCELLED": "KILLED",
    "CANCELED": "KILLED",
    "KILLED": "KILLED",
}


def open_parent(
    run_id: str | None,
    recipe: Recipe | Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
    *,
    overrides: Sequence[str] = (),
) -> str | None:
    """Make the pipeline's run, or find the one that an earlier try (or Kubeflow's plugin) made; its MLflow id.

    Its parameters are the whole recipe by dotted name, so that MLflow's comparison shows what two runs did differently;
    the resolved recipe is its artifact. None without a server or a run id.

    Raises:
        UserError: the server cannot be reached. At the pipeline's first step that is cheap to mend.
    """
    uri = tracking_uri()
    if uri is None or not run_id:
        return None
    check_server(uri)
    from nvembed.tracking.client import client, flatten, log_params, runs_of
    from nvembed.tracking.courier import parent_among

    mlflow = client()
    tree = recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else dict(recipe)
    _close_dead(mlflow)
    runs = runs_of(mlflow, run_id, _experiments(mlflow))
    parent = parent_among(runs)
    parent_id = parent.info.run_id if parent else _make(mlflow, run_id, tree)
    log_params(mlflow, parent_id, flatten(tree))
    for name, value in {**_tags(tree, overrides), **(tags or {})}.items():
        mlflow.set_tag(parent_id, name, value)
    _log_recipe(mlflow, parent_id, tree)
    _adopt(mlflow, parent_id, runs)
    return parent_id


def find_parent(run_id: str | None) -> str | None:
    """The MLflow id of the pipeline's run; None without a server, a run id or such a run."""
    if tracking_uri() is None or not run_id:
        return None
    from nvembed.tracking.client import client, runs_of
    from nvembed.tracking.courier import parent_among

    mlflow = client()
    parent = parent_among(runs_of(mlflow, run_id, _experiments(mlflow)))
    return parent.info.run_id if parent else None


def close_parent(run_id: str | None, status: str, *, error: str = "") -> None:
    """End the pipeline's run with KFP's last word, sending first what a dead server left in the spools.

    Idempotent: a run that has ended keeps its end. A run that Kubeflow's plugin made is left for the plugin to end.
    """
    if tracking_uri() is None or not run_id:
        return
    from nvembed.tracking.client import OWNER_TAG, client, is_over, runs_of
    from nvembed.tracking.courier import close_forgotten, parent_among

    for _ in send_spools(run_id):
        pass
    mlflow = client()
    runs = runs_of(mlflow, run_id, _experiments(mlflow))
    parent = parent_among(runs)
    for run in runs:
        if run is not parent and run.info.run_id != os.environ.get("NVEMBED_TRACKING_RUN_ID"):
            close_forgotten(mlflow, run, "KILLED")
    if parent is None:
        logger.info("no run in MLflow for %s: nothing to close", run_id)
        return
    if is_over(parent):
        return
    if error:
        mlflow.set_tag(parent.info.run_id, "nvembed.error", error[:500])
    mlflow.log_metric(parent.info.run_id, "duration_seconds", time.time() - parent.info.start_time / 1000)
    if parent.data.tags.get(OWNER_TAG) == "nvembed":
        mlflow.set_terminated(parent.info.run_id, status=_STATUS.get(status.upper(), "FAILED"))


def _make(mlflow: MlflowClient, run_id: str, tree: Mapping[str, Any]) -> str:
    from nvembed.tracking.client import OWNER_TAG, RUN_TAG, experiment_id

    tags = {RUN_TAG: run_id, OWNER_TAG: "nvembed", "mlflow.source.name": "nvembed"}
    if living := os.environ.get(PROCESS):
        tags[PROCESS_TAG] = f"{platform.node()}/{living}"
    name = f"{tree.get('name', 'run')} {run_id[-8:]}"
    return mlflow.create_run(experiment_id(mlflow), run_name=name, tags=tags).info.run_id


def _tags(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    tags = {
        "nvembed.recipe": str(tree.get("name", "")),
        "nvembed.recipe_digest": digest_json(tree),
        "nvembed.code": code_digest(),
        "mlflow.note.content": str(tree.get("description", "")),
    }
    if overrides:
        tags["nvembed.overrides"] = " ".join(overrides)[:5000]
    return tags


def _log_recipe(mlflow: MlflowClient, parent: str, tree: Mapping[str, Any]) -> None:
    import yaml

    mlflow.log_text(parent, yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True), "recipe.yaml")


def _adopt(mlflow: MlflowClient, parent: str, runs: Sequence[Run]) -> None:
    """Tasks that started before the parent stood (the first one itself) become its children."""
    from nvembed.tracking.client import PARENT_TAG, TASK_TAG

    for run in runs:
        if TASK_TAG in run.data.tags and PARENT_TAG not in run.data.tags:
            mlflow.set_tag(run.info.run_id, PARENT_TAG, parent)


def _experiments(mlflow: MlflowClient) -> list[str]:
    """Our experiment, and that of the run which Kubeflow's plugin injected, where it keeps the parent."""
    from nvembed.tracking.client import experiment_id

    where = [experiment_id(mlflow)]
    if injected := os.environ.get("MLFLOW_RUN_ID"):
        where.append(mlflow.get_run(injected).info.experiment_id)
    return list(dict.fromkeys(where))


def _close_dead(mlflow: MlflowClient) -> None:
    """End runs left open by a `nvembed run` on this machine that was killed."""
    from nvembed.tracking.client import RUN_TAG, experiment_id, runs_of
    from nvembed.tracking.courier import close_forgotten

    here = platform.node()
    for run in mlflow.search_runs([experiment_id(mlflow)], f"tags.`{PROCESS_TAG}` LIKE '{here}/%'", max_results=200):
        process = run.data.tags[PROCESS_TAG].removeprefix(f"{here}/")
        if run.info.status != "RUNNING" or process_identity(int(process.partition(":")[0])) == process:
            continue
        for each in runs_of(mlflow, run.data.tags[RUN_TAG]):
            close_forgotten(mlflow, each, "KILLED")
