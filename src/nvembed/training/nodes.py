"""A training stage on other machines: what the task that wants it does, and what each node does.

Both see the state folder, on a volume that several nodes mount at once. The task copies the inputs there and leaves a
request; the first node works out what the recipe leaves to the machine and writes the job that all ranks read. Result,
history and the user's mistakes come back through the state folder, so a task that was lost with its machine can be
tried again and finds them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import link_tree, output_folder, read_manifest, write_file
from nvembed.core.errors import UserError, tell_full_disk
from nvembed.core.progress import Progress
from nvembed.core.state import state_root
from nvembed.training.history import METRICS, Record, read_history, tell
from nvembed.training.job import ERROR, Job, read_error, reserve_error, write_error
from nvembed.training.launch import run_node_workers
from nvembed.training.places import device_here, threads_of
from nvembed.training.result import read_result
from nvembed.training.settings import settle

if TYPE_CHECKING:
    from nvembed.recipe import Resources

logger = logging.getLogger(__name__)
NODE_RANK = "PET_NODE_RANK"
_JOB_PATIENCE = 1800.0  # seconds for the first node to settle what the recipe leaves to it, a slow volume included


@dataclass(frozen=True)
class Work:
    """What those who bring up nodes have to know of a stage.

    Attributes:
        name: `stage1`, `stage2`.
        digest: what the result depends on; another digest is other work.
        request: writes the request of one attempt, named by the attempt; its path.
        look: call it now and then while the nodes train: it tells of new steps.
        finished: whether the result is there.
    """

    name: str
    digest: str
    request: Callable[[str], Path]
    look: Callable[[], None]
    finished: Callable[[], bool]


Elsewhere = Callable[[Work], None]
"""Brings up nodes that each run `train_node` on the request, waits for them, raises if they failed."""


def train_elsewhere(job: Job, resources: Resources, elsewhere: Elsewhere) -> None:
    """Have a stage trained on other machines; the result lies in its state folder afterwards.

    Raises:
        UserError: a rank met something the user has to mend.
        RuntimeError: the nodes ended, and there is no result.
    """
    state = Path(job.state)
    job = _staged(job, state)
    follower = _Follower(state / METRICS, job)

    def request(attempt: str) -> Path:
        reserve_error(state)
        path = state / f"attempt-{attempt}.json"
        write_file(path, json.dumps({"job": asdict(job), "resources": resources.model_dump(mode="json")}) + "\n")
        return path

    work = Work(job.name, state.name, request, follower.look, lambda: read_result(state) is not None)
    try:
        elsewhere(work)
    except Exception as error:
        if told := read_error(state) if (state / ERROR).exists() else None:
            raise UserError(told) from error
        raise
    follower.look()
    if not work.finished():
        raise RuntimeError(f"the nodes have ended without an error, but {state} holds no result; do they mount it?")
    shutil.rmtree(state / "inputs", ignore_errors=True)
    for old in state.glob("attempt-*.json"):
        old.unlink(missing_ok=True)


def train_node(request: Path) -> int:
    """One node's part of a stage: its ranks, under torchrun; the exit code.

    Raises UserError for what this node cannot do; the task that waits is told, too.
    """
    from nvembed.recipe import Model, Resources, Stage

    try:
        tree = json.loads(request.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{request}: is not here; mount the volume that holds $NVEMBED_STATE into the job's pods too, with "
            "access mode ReadWriteMany"
        ) from None
    job, resources = Job(**tree["job"]), Resources.model_validate(tree["resources"])
    file, first = request.with_name(request.name.replace("attempt-", "attempt-job-")), _node_rank() == 0
    try:
        device, threads = device_here(resources), threads_of(resources)
        # Once written it stays, so that a pod that is started again finds what the other nodes have read.
        if first and not file.exists():
            stage, model = Stage.model_validate(job.stage), Model.model_validate(job.model)
            settled, _ = settle(job.name, stage, model, resources, device, Path(job.dataset))
            replace(job, stage=settled, device=device, threads=threads).write(file)
    except UserError as error:
        write_error(request.parent, error)
        raise
    logger.info("node %d: %d processes on %s", _node_rank(), resources.processes, device)
    _wait_for(file)
    with tell_full_disk(request.parent):
        return run_node_workers(file, device=device, threads=threads)


def _node_rank() -> int:
    text = os.environ.get(NODE_RANK, "0")
    if not text.isdigit():
        raise UserError(f"{NODE_RANK} is {text!r}; a training runtime with mlPolicy.torch sets it to the node's number")
    return int(text)


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + _JOB_PATIENCE
    while not file.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{file}: the first node has not written it within {_JOB_PATIENCE / 60:.0f} minutes")
        time.sleep(0.5)


def _staged(job: Job, state: Path) -> Job:
    """The job with its inputs on the volume that the nodes mount; what lies there already is left where it is."""
    root = state_root().resolve()
    changed: dict[str, Any] = {}
    for name in ("dataset", "init", "eval_sets"):
        source = getattr(job, name)
        if source is None or root in Path(source).parents:
            continue
        content = read_manifest(source).content
        target = state / "inputs" / f"{name}-{content[:24]}"
        if not _is_copy(target, content):
            with output_folder(target) as folder:
                folder.rmdir()
                link_tree(Path(source), folder)
        changed[name] = str(target)
    if job.resume is not None and root not in Path(job.resume).parents:
        raise UserError(f"--resume {job.resume}: lies outside $NVEMBED_STATE, where the nodes cannot read it; copy it")
    return replace(job, **changed)


def _is_copy(folder: Path, content: str) -> bool:
    try:
        return read_manifest(folder).content == content
    except UserError:
        return False


class _Follower:
    """Tells what the first rank writes into the history, as the rank itself does where it runs beside the task."""

    def __init__(self, path: Path, job: Job) -> None:
        self._path, self._log_steps = path, int(job.stage["log_steps"])
        self._progress = Progress(f"training {job.name}", int(job.stage["steps"]))
        self._told: list[Record] = []

    def look(self) -> None:
        records = read_history(self._path)
        if not records or len(records) == len(self._told):
            return
        # A window starts behind a multiple of log_steps: what is told again is told alike, and taken for the same.
        start = len(self._told) - len(self._told) % self._log_steps if len(records) > len(self._told) else 0
        tell(records[start:], self._log_steps)
        self._told = records
        self._progress.update(
            int(records[-1]["step"]), f"loss {records[-1]['loss']:.3f}" if "loss" in records[-1] else ""
        )
