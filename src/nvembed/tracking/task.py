"""The tracking of one task: its MLflow run, kept by a thread of its own, so that the task never waits for a server."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from nvembed.core import metrics as core_metrics
from nvembed.core.artifacts import Manifest
from nvembed.core.state import hold
from nvembed.tracking.spool import Ledger, Spool
from nvembed.tracking.store import pipeline_run_id, shown, tracking_uri

if TYPE_CHECKING:
    from nvembed.tracking.courier import Courier

logger = logging.getLogger(__name__)
TRACKING_RUN = "NVEMBED_TRACKING_RUN_ID"
_CONNECT_SECONDS = 10.0  # how long a task may wait at its start for its run's id, which its manifests name
_CLOSE_SECONDS = 60.0  # the longest wait for what is left to be sent; a dead server ends it at the first failed call


class TaskRun:
    """What a task may log. Without a tracking server every method is a cheap no-op.

    Attributes:
        usage: what the task took beyond hours and energy, such as `llm_cost`; it joins the rest in its manifests.
    """

    def __init__(self, spool: Spool | None = None, ledger: Ledger | None = None) -> None:
        self._spool, self._ledger = spool, ledger
        self.usage: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def id(self) -> str | None:
        """The MLflow run's id; None where nothing is tracked or the server has not answered yet."""
        return self._ledger.child if self._ledger else None

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Note metrics of one step; they are sent later."""
        if self._spool:
            self._spool.append(values, step)

    def log_folder(self, folder: Path | str, artifact_path: str | None = None) -> None:
        """Keep a folder's reports, pictures, tables and manifest as artifacts, never its tensors or big tables."""
        self._later(
            {"what": "folder", "folder": str(Path(folder).absolute()), "path": artifact_path or Path(folder).name}
        )

    def log_dataset(self, name: str, manifest: Manifest) -> None:
        """Name a dataset as this task's input, by content digest, with its counts and licences."""
        if self._ledger:
            from nvembed.tracking.courier import dataset_entry

            self._later(dataset_entry(name, manifest))

    def _later(self, entry: dict[str, Any]) -> None:
        if self._spool and self._ledger:
            with self._lock:
                self._ledger.todo.append(entry)
                self._spool.write_ledger(self._ledger)


class _Follower:
    """The thread that brings one task's spool to MLflow, a second behind the task."""

    def __init__(self, courier: Courier, every: float = 1.0) -> None:
        self._courier, self._every = courier, every
        self._stop, self._tried = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="nvembed-tracking", daemon=True)

    def start(self) -> None:
        """Begin, and wait until the task's run is known or the first try has failed."""
        self._thread.start()
        self._tried.wait(_CONNECT_SECONDS)

    def stop(self) -> None:
        """Send what is left and close the run; what the server does not take stays in the spool."""
        self._stop.set()
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning("tracking did not finish within %.0f s; the rest stays in the spool", _CLOSE_SECONDS)

    def _run(self) -> None:
        wait, said = 0.0, False
        while True:
            stopping = self._stop.wait(wait)
            try:
                self._courier.deliver()
                wait = self._every
            except Exception as error:  # noqa: BLE001 - whatever fails in tracking, the task goes on
                if not said:
                    logger.warning(
                        "tracking: %s; the metrics stay in %s", _first_line(error), self._courier.spool.folder
                    )
                said, wait = True, min(max(wait, self._every) * 2, 30.0)
            self._tried.set()
            if stopping:
                return


@contextlib.contextmanager
def task_run(task: str, section: Mapping[str, Any] | None = None) -> Iterator[TaskRun]:
    """Track a task while its body runs: a child of the pipeline's run with metrics, system metrics and its end.

    Sets `NVEMBED_TRACKING_RUN_ID` and `NVEMBED_METRICS` for the body. A retry of the same task of the same pipeline run
    goes on with the same MLflow run. A server that dies costs seconds, never the task: what could not be sent is sent
    by `close_parent`. Without `MLFLOW_TRACKING_URI` nothing happens at all.
    """
    if tracking_uri() is None:
        yield TaskRun()
        return
    from nvembed.tracking.client import flatten, prepare_mlflow
    from nvembed.tracking.courier import Courier
    from nvembed.tracking.system import Sampler

    prepare_mlflow()
    run_id = pipeline_run_id() or f"alone-{uuid.uuid4().hex[:12]}"
    spool = Spool.of(run_id, task)
    ledger = spool.reopen(run_id, task, flatten(section or {}))
    run = TaskRun(spool, ledger)
    follower = _Follower(Courier(spool, ledger, run._lock, injected=os.environ.get("MLFLOW_RUN_ID")))
    sampler = Sampler(spool.append)
    environment = {core_metrics.ENVIRONMENT: str(spool.metrics), TRACKING_RUN: None}
    with _held(spool), _environment(environment), _termination_as_exit():
        follower.start()
        sampler.start()
        status, reason = "FINISHED", None
        try:
            yield run
        except BaseException as error:
            status, reason = "FAILED" if isinstance(error, Exception) else "KILLED", f"{type(error).__name__}: {error}"
            raise
        finally:
            sampler.stop()
            _conclude(run, status, reason)
            follower.stop()


def _conclude(run: TaskRun, status: str, error: str | None = None) -> None:
    spool, ledger = run._spool, run._ledger
    if spool and ledger:
        with run._lock:
            ledger.status, ledger.error, ledger.ended = status, error, time.time()
            spool.write_ledger(ledger)


@contextlib.contextmanager
def _held(spool: Spool) -> Iterator[None]:
    """Hold the spool, so that `close_parent` leaves a living task's alone. A volume without locks stops no task."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(spool.folder, timeout=0))
        except OSError as error:
            logger.warning("tracking: %s is not held: %s", spool.folder, error)
        yield


@contextlib.contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Let SIGTERM (a pod being stopped) unwind the task, so that its run is closed as killed. Main thread only."""
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if mine:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _first_line(error: Exception) -> str:
    text = shown(str(error)).strip().splitlines()  # MLflow repeats its server's address
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"
