"""MLflow's client, made quiet and impatient, and the few calls that every module here shares."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.tracking.store import URI, artifact_location, shown, sqlite_file, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

EXPERIMENT = "nvembed"
RUN_TAG = "kfp.pipeline_run_id"  # the tag that Kubeflow's own MLflow plugin writes, so that both find one another
PARENT_TAG = "mlflow.parentRunId"
TASK_TAG = "nvembed.task"
OWNER_TAG = "nvembed.owner"
LIVING = "RUNNING"

# A dead server may cost a call a few seconds, never the minutes of MLflow's own defaults. A user's own values win.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def prepare_mlflow() -> None:
    """Set what must be set before MLflow is imported: short timeouts, few words, no telemetry."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow.store.db", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.WARNING)


def client() -> MlflowClient:
    """A client of the store in `MLFLOW_TRACKING_URI`. Raises UserError if the variable is not set."""
    uri = tracking_uri()
    if uri is None:
        raise UserError("MLFLOW_TRACKING_URI is not set; name an MLflow server or sqlite:///<file>")
    prepare_mlflow()
    from mlflow.tracking import MlflowClient

    if (file := sqlite_file(uri)) is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)


@contextmanager
def plain_errors(kept: str = "") -> Iterator[None]:
    """Within this, a store that went away, or takes nothing from us, is a UserError in one line.

    `kept` says what of the work is not lost.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = why_unusable(error)
        if reason is None:
            raise
        uri = shown(tracking_uri() or "")
        raise UserError(f"{URI}={uri}: {reason}; mend that and start again{f' ({kept})' if kept else ''}") from error


def why_unusable(error: BaseException) -> str | None:
    """What is wrong with the store, if that is what an error from it is about; None for any other error."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    text = str(error)
    if any(words in text.lower() for words in ("readonly database", "read-only", "read only")):
        return "it is read-only"
    if isinstance(error, RequestException):
        return "it no longer answers"
    if isinstance(error, PermissionError):
        return f"{error.filename}: no right to write there"
    if not isinstance(error, MlflowException):
        return None
    if is_refusal(error):
        return "it refuses to be changed by us (403); ask for the right to write"
    if (text.startswith("API request to") and ("failed with" in text)) or error.error_code == "TEMPORARILY_UNAVAILABLE":
        return "it no longer answers"
    return None


def is_refusal(error: MlflowException) -> bool:
    """Whether an error from the store says that we have no right to what was asked."""
    codes = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
    return error.error_code in codes or "code 403" in str(error)


def experiment_id(mlflow: MlflowClient) -> str:
    """The experiment of all runs, made if it is missing: `MLFLOW_EXPERIMENT_NAME`, or `nvembed`."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = mlflow.get_experiment_by_name(name)
    if found is None:
        try:
            return mlflow.create_experiment(name, artifact_location(tracking_uri() or ""))
        except MlflowException:  # another process made it in between
            found = mlflow.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        mlflow.restore_experiment(found.experiment_id)
    return found.experiment_id


def runs_of(mlflow: MlflowClient, run_id: str, experiments: list[str] | None = None) -> list[Run]:
    """All runs tagged with a pipeline run's id, oldest first, in `experiments` (default: our own)."""
    if "'" in run_id:
        raise UserError(f"run id {run_id!r}: contains a quote; give it letters, digits, dots and dashes")
    where = experiments or [experiment_id(mlflow)]
    return list(mlflow.search_runs(where, f"tags.`{RUN_TAG}` = '{run_id}'", order_by=["attributes.start_time ASC"]))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Parameters by dotted name (`stage2.learning_rate`); lists as JSON; what is None is left out.

    A mix has a thousand keys that nobody compares one by one: each of its sources is one parameter, a digest of all
    that the recipe says of it. The recipe itself is an artifact of the pipeline's run.
    """
    flat: dict[str, str] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if name == "sources" and isinstance(value, Mapping):
            flat |= {f"{key}.{source}": digest_json(lines)[:16] for source, lines in value.items()}
        elif isinstance(value, Mapping):
            flat |= flatten(value, f"{key}.")
        elif isinstance(value, str):
            flat[key] = value
        elif value is not None:
            flat[key] = json.dumps(value, ensure_ascii=False)
    return flat


def log_params(mlflow: MlflowClient, run: str, params: Mapping[str, str]) -> None:
    """Log parameters the run does not have yet: MLflow refuses to change one, and a retry logs the same again."""
    from mlflow.entities import Param

    there = mlflow.get_run(run).data.params
    # 250 and 6000 characters are MLflow's limits on a parameter's name and value, 100 on a call
    new = [Param(key[:250], value[:6000]) for key, value in params.items() if key[:250] not in there]
    for start in range(0, len(new), 100):
        mlflow.log_batch(run, params=new[start : start + 100])


def is_over(run: Run) -> bool:
    """True for a run that has ended, one way or the other."""
    return run.info.status not in (LIVING, "SCHEDULED")
