"""Handing the compiled pipeline to a Kubeflow Pipelines server, and following the run there."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvembed.core.errors import UserError
from nvembed.recipe import Recipe

logger = logging.getLogger(__name__)

ENDPOINTS = ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT")
TOKENS = ("KFP_TOKEN", "KFP_EXISTING_TOKEN")
TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"  # Kubeflow's own name for it, and where its PodDefault mounts one
_MOUNTED = "/var/run/secrets/kubeflow/pipelines/token"
ENDED = frozenset({"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"})
_HEALTH = "/apis/v2beta1/healthz"
_LOST_ANSWERS = 30


class SubmissionError(RuntimeError):
    """The server answered, but did not take the run or lost it."""


@dataclass(frozen=True)
class Submission:
    """A run that the server accepted."""

    run_id: str
    url: str
    endpoint: str


def find_endpoint(given: str | None) -> str:
    """The server's address: as given, else from the environment, else the one inside the cluster we are in.

    Raises:
        UserError: none of these.
    """
    endpoint = given or next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
        namespace = os.environ.get("KFP_NAMESPACE", "kubeflow")
        endpoint = f"http://ml-pipeline.{namespace}.svc.cluster.local:8888"
    if endpoint is None:
        raise UserError(
            "no endpoint: give --endpoint or set KFP_ENDPOINT, for instance http://localhost:8888 after "
            "`kubectl port-forward -n kubeflow svc/ml-pipeline 8888:8888`"
        )
    return (endpoint if "://" in endpoint else f"https://{endpoint}").rstrip("/")


def check_endpoint(endpoint: str, *, timeout: float = 5.0) -> dict[str, Any]:
    """Ask the server whether it is well; what it says of itself (`tag_name`, `multi_user`).

    Raises:
        UserError: it cannot be reached within `timeout` seconds, refuses us, or is no Kubeflow Pipelines server.
    """
    request = urllib.request.Request(endpoint + _HEALTH)
    if known := token():
        request.add_unredirected_header("Authorization", f"Bearer {known}")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return dict(json.loads(answer.read()))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise UserError(
                f"--endpoint {endpoint}: refuses us ({error.code}); set a valid token in KFP_TOKEN"
            ) from None
        raise UserError(
            f"--endpoint {endpoint}: answered {error.code} to {_HEALTH}; is it Kubeflow Pipelines?"
        ) from None
    except (urllib.error.URLError, TimeoutError, ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"--endpoint {endpoint}: cannot be reached ({reason}); check address and network") from None
    except (ValueError, TypeError):
        raise UserError(
            f"--endpoint {endpoint}: no Kubeflow Pipelines API there (a login page?); set a token in KFP_TOKEN"
        ) from None


def check_for_cluster(recipe: Recipe) -> None:
    """Raise UserError if the recipe names a model of this machine, which no pod will find."""
    named = {
        "model.backbone": recipe.model.backbone,
        "mining.teacher.backbone": recipe.mining.teacher.backbone or None,
        **{f"mining.more_teachers.{n}.backbone": t.backbone or None for n, t in enumerate(recipe.mining.more_teachers)},
    }
    if recipe.mining.cross_encoder is not None:
        named["mining.cross_encoder.backbone"] = recipe.mining.cross_encoder.backbone
    for key, value in named.items():
        if value is None or "://" in value or ":" in value.split("/")[0]:
            continue
        if Path(value).expanduser().exists():
            raise UserError(
                f"{key}: {value} lies on this machine, where a cluster's pods cannot read it; "
                "push it to the hub and give its id, or copy it to a volume that the pods mount and give its path there"
            )


def submit(
    pipeline: Path,
    parameters: Mapping[str, Any],
    *,
    endpoint: str,
    experiment: str,
    run_name: str,
    namespace: str | None = None,
    service_account: str | None = None,
    every: str | None = None,
) -> Submission:
    """Create a run of the compiled pipeline, or with `every` (a cron expression of six fields) a recurring one.

    The spec that is uploaded is the compiled file's, unchanged; the recipe and the image travel as parameters.

    Raises:
        UserError: the server refuses us or a parameter.
        SubmissionError: the server failed.
    """
    client = connect(endpoint, namespace)
    with plain_errors(endpoint), contextlib.redirect_stdout(io.StringIO()):
        made = client.create_experiment(experiment, namespace=namespace)
        if every is not None:
            job = client.create_recurring_run(
                experiment_id=made.experiment_id,
                job_name=run_name,
                cron_expression=every,
                pipeline_package_path=str(pipeline),
                params=dict(parameters),
                service_account=service_account,
            )
            known = job.recurring_run_id
            return Submission(known, f"{endpoint}/#/recurringrun/details/{known}", endpoint)
        run = client.run_pipeline(
            experiment_id=made.experiment_id,
            job_name=run_name,
            pipeline_package_path=str(pipeline),
            params=dict(parameters),
            service_account=service_account,
        )
    return Submission(run.run_id, f"{endpoint}/#/runs/details/{run.run_id}", endpoint)


def wait(
    submission: Submission,
    on_state: Callable[[str], None],
    *,
    on_task: Callable[[str, str], None] | None = None,
    poll: float = 10.0,
) -> tuple[str, str]:
    """Follow a run to its end.

    KFP's own waiting never sees a cancelled run, and its command line exits with 0 on a failed one; this does neither.

    Args:
        on_state: called with each new state of the run.
        on_task: called with a task's name and each new state of it.
        poll: seconds between two looks.

    Returns:
        The final state (SUCCEEDED, SKIPPED, FAILED or CANCELED) and what the server says about failed tasks.

    Raises:
        SubmissionError: the server gave no answer thirty times in a row.
    """
    client, state, lost = connect(submission.endpoint, None), "", 0
    tasks: dict[str, str] = {}
    while True:
        try:
            run = client.get_run(submission.run_id)
            lost = 0
        except Exception as error:  # the client raises whatever its transport does; one lost answer loses no run
            lost += 1
            if lost >= _LOST_ANSWERS:
                raise SubmissionError(f"lost sight of run {submission.run_id}: {error}") from error
            logger.warning("no answer about run %s: %s", submission.run_id, error)
            time.sleep(poll)
            continue
        for name, now in _task_states(run):
            if tasks.get(name) != now:
                tasks[name] = now
                if on_task is not None:
                    on_task(name.partition(" ")[0], now)
        if run.state and run.state != state:
            state = run.state
            on_state(state)
        if state in ENDED:
            return state, _failures(run)
        time.sleep(poll)


def own_tasks(run: Any) -> list[Any]:
    """A run's task details without those that KFP adds for itself."""
    details = (run.run_details.task_details if run.run_details else None) or []
    return [one for one in details if (name := one.display_name) and name != "root" and not name.endswith("-driver")]


def _task_states(run: Any) -> list[tuple[str, str]]:
    """Name, made unambiguous, and state of each task."""
    return [(f"{one.display_name} {one.task_id}", one.state) for one in own_tasks(run) if one.state]


def _failures(run: Any) -> str:
    failed = [one.display_name for one in own_tasks(run) if one.state == "FAILED"]
    reason = (run.error.message if run.error else "") or ""
    return "; ".join(part for part in (", ".join(failed), reason) if part)


def token() -> str | None:
    """The bearer token that the environment holds, or the one that Kubeflow mounts into a pod, if any."""
    given = next((os.environ[name] for name in TOKENS if os.environ.get(name)), None)
    file = Path(os.environ.get(TOKEN_FILE) or _MOUNTED)
    return given or (file.read_text(encoding="utf-8").strip() if file.is_file() else None)


def connect(endpoint: str, namespace: str | None) -> Any:
    """KFP's own client."""
    import kfp

    with warnings.catch_warnings(), plain_errors(endpoint):
        warnings.simplefilter("ignore", FutureWarning)
        return kfp.Client(host=endpoint, existing_token=token(), namespace=namespace or "kubeflow")


@contextlib.contextmanager
def plain_errors(endpoint: str) -> Any:
    """The server's refusals as UserError, its failures as SubmissionError, each in one line."""
    from kfp_server_api import ApiException

    try:
        yield
    except ApiException as error:
        said = _message(error)
        if error.status in (400, 401, 403, 404, 409):
            raise UserError(f"--endpoint {endpoint}: refused the run ({error.status} {error.reason}: {said})") from None
        raise SubmissionError(f"{endpoint} failed ({error.status} {error.reason}: {said})") from None


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body).get("message") or error.body)[:500]
    except (TypeError, ValueError, AttributeError):
        return str(error.body or "")[:500]
