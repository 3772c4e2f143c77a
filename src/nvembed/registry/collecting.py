"""Emptying MLflow's bin beside its store: what a server cannot be asked for.

    python -m nvembed.registry.collecting DAYS     what was deleted longer ago than DAYS goes for good

`mlflow gc` would do, but that it takes the runs that registered versions rest on as well: their evaluations are what
challengers are compared with.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nvembed.core.errors import UserError
from nvembed.registry.versions import list_versions
from nvembed.tracking.client import plain_errors, prepare_mlflow
from nvembed.tracking.store import check_server, shown, tracking_uri

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

logger = logging.getLogger(__name__)
DESTINATION = "MLFLOW_ARTIFACTS_DESTINATION"  # the server's own variable: where it keeps what it takes for others
_PROXIED = "mlflow-artifacts:/"
_MODEL = "models:/"
_DAY = 24 * 3600 * 1000


def collect(days: float) -> tuple[list[str], list[str]]:
    """Remove for good, with their artifacts, what was deleted longer ago; ids of the runs and of the logged models.

    `MLFLOW_TRACKING_URI` is the store's own address, a database; `MLFLOW_ARTIFACTS_DESTINATION` the place of proxied
    artifacts. Runs and models of registered versions stay. Raises UserError for a server's address.
    """
    uri = tracking_uri() or ""
    if not uri or uri.startswith("http"):
        raise UserError(f"MLFLOW_TRACKING_URI={shown(uri)}: give the database's own address; a server removes nothing")
    check_server(uri)
    prepare_mlflow()
    versions = list_versions()
    kept = {version.run for version in versions} | {version.source.removeprefix(_MODEL) for version in versions}
    store, before = _store(uri), int(days * _DAY)
    runs = sorted(set(store._get_deleted_runs(older_than=before)) - kept)
    models = sorted(set(store._get_deleted_logged_models(older_than=before)) - kept)
    destroy(uri, models, runs)
    return runs, models


def destroy(uri: str, models: Iterable[str], runs: Iterable[str]) -> None:
    """What `mlflow gc` does, for these alone: artifacts first, so that what is interrupted is found again."""
    store = _store(uri)
    for run in runs:
        _artifacts(store.get_run(run).info.artifact_uri).delete_artifacts()
        store._hard_delete_run(run)
    for model in models:
        _artifacts(store.get_logged_model(model, allow_deleted=True).artifact_location).delete_artifacts()
        store._hard_delete_logged_model(model)


def _artifacts(uri: str) -> ArtifactRepository:
    """Where a run's or a model's files lie; proxied ones without asking the server, which may want a log-in."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    place = os.environ.get(DESTINATION)
    if place and uri.startswith(_PROXIED):
        uri = f"{place.rstrip('/')}/{uri.removeprefix(_PROXIED).lstrip('/')}"
    return get_artifact_repository(uri)


def _store(uri: str) -> Any:
    from mlflow.tracking._tracking_service.utils import _get_store

    return _get_store(uri)


def main(arguments: list[str]) -> None:
    """The command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        (days,) = map(float, arguments)
        if not days >= 0:
            raise ValueError
    except ValueError:
        raise SystemExit("give one number: days that something stays in the bin") from None
    try:
        with plain_errors():
            runs, models = collect(days)
    except UserError as error:
        raise SystemExit(str(error)) from None
    logger.info("removed %d runs and %d models that were deleted more than %g days ago", len(runs), len(models), days)


if __name__ == "__main__":
    main(sys.argv[1:])
