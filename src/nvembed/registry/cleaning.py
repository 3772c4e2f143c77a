"""What the registry and MLflow's store can do without: old versions nobody points at, and runs somebody deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from nvembed.registry.collecting import destroy
from nvembed.registry.versions import CHAMPION, Version, list_versions
from nvembed.tracking.client import client
from nvembed.tracking.store import shown, tracking_uri

BEFORE_TAG = "nvembed.champion_before"


@dataclass(frozen=True)
class Expendable:
    """Versions, and runs in MLflow's bin, that may be removed for good."""

    versions: list[Version]
    runs: list[str]


def expendable(keep: int) -> Expendable:
    """Versions without alias beyond the newest `keep` of a model, and deleted runs without a kept version's evidence.

    A champion, its predecessor, and whatever carries an alias always stay. Raises UserError without a server.
    """
    versions = list_versions()
    names = sorted({version.name for version in versions})
    old = [version for name in names for version in _old([v for v in versions if v.name == name], keep)]
    kept = {version.run for version in versions if version not in old}
    return Expendable(old, [run for run in _deleted_runs() if run not in kept])


def remove(found: Expendable) -> Iterator[str]:
    """Remove them, and say what was done. Runs go for good only where the store itself can be reached, not a server."""
    mlflow = client()
    models = []
    for version in found.versions:
        mlflow.delete_model_version(version.name, version.version)
        model = version.source.removeprefix("models:/")
        if model.startswith("m-"):
            mlflow.delete_logged_model(model)
            models.append(model)
        yield f"removed version {version.version} of {version.name}"
    if not (models or found.runs):
        return
    store = os.environ.get("MLFLOW_BACKEND_STORE_URI") or tracking_uri() or ""
    if store.startswith("http"):
        count = len(models) + len(found.runs)
        yield (
            f"{count} stay in the bin of {shown(store)}, which job mlflow-gc empties, "
            "or this, run beside its store with MLFLOW_BACKEND_STORE_URI"
        )
        return
    destroy(store, models, found.runs)
    if found.runs:
        yield f"removed {len(found.runs)} deleted runs"


def _old(versions: list[Version], keep: int) -> list[Version]:
    """Of one model's versions, newest first, those that may go."""
    before = {version.tags.get(BEFORE_TAG, "") for version in versions if CHAMPION in version.aliases}
    free = [version for version in versions if not version.aliases and version.version not in before]
    return free[keep:]


def _deleted_runs() -> list[str]:
    from mlflow.entities import ViewType

    mlflow = client()
    experiments = [one.experiment_id for one in mlflow.search_experiments()]
    runs, token = [], None
    while experiments:
        page = mlflow.search_runs(experiments, run_view_type=ViewType.DELETED_ONLY, max_results=1000, page_token=token)
        runs += [run.info.run_id for run in page]
        token = page.token
        if not token:
            break
    return runs
