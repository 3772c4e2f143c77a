"""Brings a spool to MLflow: makes or finds the task's run, sends metrics, logs artifacts and datasets, closes the run.

Used by the task's own thread while the task runs, and by `close_parent` for what a dead server left behind.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import Manifest
from nvembed.tracking.client import (
    LIVING,
    OWNER_TAG,
    PARENT_TAG,
    RUN_TAG,
    TASK_TAG,
    client,
    experiment_id,
    is_over,
    log_params,
    runs_of,
)
from nvembed.tracking.spool import Ledger, Spool
from nvembed.tracking.store import check_server, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)
PICTURES = (".png", ".svg", ".html", ".md", ".json", ".jsonl", ".yaml", ".csv", ".txt")
_ABOUT_A_SOURCE = ("name", "digest", "place", "revision", "license", "license_on_card")
_COUNTS_OF_A_SOURCE = ("rows", "unusable_rows", "left_by_cap", "dropped", "dropped_negatives", "examples")
_LARGEST = 1 << 20  # bytes; what is bigger is no report


class Courier:
    """One task's way to MLflow. Every method raises what MLflow raises; the caller decides what that means."""

    def __init__(self, spool: Spool, ledger: Ledger, lock: threading.Lock, *, injected: str | None = None) -> None:
        """`injected`: the run that Kubeflow's plugin made for this task, which will also end it."""
        self.spool, self._ledger, self._lock, self._injected = spool, ledger, lock, injected
        self._mlflow: MlflowClient | None = None
        self._attached = False

    def deliver(self) -> int:
        """Bring everything that is there now; once the task has ended and all has arrived, close its run.

        The number of metrics that were sent.
        """
        if self._mlflow is None or not self._attached:
            check_server(
                tracking_uri() or "", timeout=3
            )  # a silent server is told apart sooner than by MLflow's client
            self._mlflow = client()
            self._attach(self._mlflow)
        child = self._ledger.child
        assert child is not None  # _attach sets it or raises
        ended = self._ledger.status is not None  # read before sending: nothing is written after the end
        sent = self.spool.send(self._mlflow, child)
        while self._ledger.todo:
            self._log(self._mlflow, child, self._ledger.todo[0])
            with self._lock:
                del self._ledger.todo[0]
                self._save()
        if ended and not self._ledger.closed:
            self._close(self._mlflow, child)
        return sent

    def _attach(self, mlflow: MlflowClient) -> None:
        if self._ledger.child is None and self._injected:
            mlflow.set_tag(self._injected, TASK_TAG, self._ledger.task)
            self._ledger.child, self._ledger.owned = self._injected, False
        elif self._ledger.child is None:
            self._ledger.child = find_or_make_child(mlflow, self._ledger)
        if self._ledger.owned and self._ledger.status is None:
            mlflow.update_run(self._ledger.child, status=LIVING)
        log_params(mlflow, self._ledger.child, self._ledger.params)
        with self._lock:
            self._save()
        if self._ledger.status is None:
            os.environ["NVEMBED_TRACKING_RUN_ID"] = self._ledger.child
        self._attached = True

    def _log(self, mlflow: MlflowClient, child: str, entry: dict[str, Any]) -> None:
        try:
            if entry["what"] == "folder":
                log_folder(mlflow, child, Path(entry["folder"]), entry["path"])
            elif entry["what"] == "dataset":
                log_dataset(mlflow, child, entry)
        except (OSError, KeyError, ValueError) as error:  # a file that is gone would block everything behind it
            if type(error).__module__.partition(".")[0] in ("requests", "urllib3"):
                raise  # the server's fault (these too derive from OSError): try again later
            logger.warning("tracking: %s is left out: %s", entry.get("folder") or entry.get("name"), error)

    def _close(self, mlflow: MlflowClient, child: str) -> None:
        if self._ledger.error:
            mlflow.set_tag(child, "nvembed.error", self._ledger.error[:500])
        if self._ledger.owned:
            ended = int(self._ledger.ended * 1000) if self._ledger.ended else None
            mlflow.set_terminated(child, status=self._ledger.status, end_time=ended)
        with self._lock:
            self._ledger.closed = True
            self._save()

    def _save(self) -> None:
        self.spool.write_ledger(self._ledger)


def find_or_make_child(mlflow: MlflowClient, ledger: Ledger) -> str:
    """The run of a task: an earlier try's, found by its tags, or a new one under the pipeline's run."""
    runs = runs_of(mlflow, ledger.run_id)
    for run in runs:
        if run.data.tags.get(TASK_TAG) == ledger.task:
            return run.info.run_id
    tags = {RUN_TAG: ledger.run_id, TASK_TAG: ledger.task, OWNER_TAG: "nvembed", "mlflow.source.name": "nvembed"}
    parent = parent_among(runs)
    if parent is not None:
        tags[PARENT_TAG] = parent.info.run_id
    return mlflow.create_run(experiment_id(mlflow), run_name=ledger.task, tags=tags).info.run_id


def parent_among(runs: list[Run]) -> Run | None:
    """The pipeline's own run among those that carry its id: the one that is no task and has no parent."""
    return next((r for r in runs if TASK_TAG not in r.data.tags and PARENT_TAG not in r.data.tags), None)


def log_folder(mlflow: MlflowClient, run: str, folder: Path, artifact_path: str) -> None:
    """Log what a person reads in a folder: reports, pictures, tables and the manifest, none above a mebibyte."""
    for file in readable_files(folder):
        inner = file.relative_to(folder).parent.as_posix()
        mlflow.log_artifact(run, str(file), artifact_path if inner == "." else f"{artifact_path}/{inner}")


def readable_files(folder: Path) -> Iterator[Path]:
    """Files of a folder that a person reads, in a fixed order. Raises FileNotFoundError if there is no such folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in PICTURES and file.stat().st_size <= _LARGEST:
            yield file


def dataset_entry(name: str, manifest: Manifest) -> dict[str, Any]:
    """What is to be told of a dataset, in JSON values."""
    about = {"counts": dict(manifest.counts), "licenses": dict(manifest.licenses)}
    if sources := manifest.extra.get("sources"):
        about["sources"] = [{key: one.get(key) for key in (*_ABOUT_A_SOURCE, *_COUNTS_OF_A_SOURCE)} for one in sources]
    return {"what": "dataset", "name": name, "kind": manifest.kind, "digest": manifest.content, **about}


def log_dataset(mlflow: MlflowClient, run: str, entry: dict[str, Any]) -> None:
    """Name a dataset as a run's input: digest, counts, licences; of a mix each source too.

    Once is enough; again changes nothing.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=entry["name"],
        digest=entry["digest"][:36],  # MLflow's limit
        source_type="nvembed",
        source=json.dumps({"kind": entry["kind"], "content": entry["digest"]}),
        profile=json.dumps({"counts": entry["counts"], "licenses": entry["licenses"]}, ensure_ascii=False),
    )
    licences = ", ".join(sorted(set(entry["licenses"].values()))) or "none given"
    tags = [InputTag("mlflow.data.context", entry["name"]), InputTag("nvembed.licenses", licences[:500])]
    mlflow.log_inputs(run, datasets=[DatasetInput(dataset, tags), *map(_source_input, entry.get("sources") or ())])


def _source_input(source: dict[str, Any]) -> DatasetInput:
    """A source of a mix: where it lies, its revision, what came of its rows."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=source["name"],
        digest=source["digest"][:36],
        source_type="nvembed",
        source=json.dumps({"place": source["place"], "revision": source["revision"]}),
        profile=json.dumps({key: source[key] for key in _COUNTS_OF_A_SOURCE}, ensure_ascii=False),
    )
    return DatasetInput(
        dataset,
        [InputTag("mlflow.data.context", "source"), InputTag("nvembed.licenses", str(source["license"])[:500])],
    )


def close_forgotten(mlflow: MlflowClient, run: Run, status: str) -> None:
    """End a run of ours whose process is gone without having said so."""
    if run.data.tags.get(OWNER_TAG) == "nvembed" and not is_over(run):
        mlflow.set_terminated(run.info.run_id, status=status)
