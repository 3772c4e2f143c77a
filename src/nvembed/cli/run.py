"""One run of the compiled pipeline on this machine: started, watched, judged."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from nvembed.cli.app import Failure
from nvembed.cli.board import Board, Tail
from nvembed.cli.local_runner import Job, Result
from nvembed.cli.processes import end_tree, terminate_as_interrupt, wait_for_leftovers
from nvembed.cli.screen import Screen
from nvembed.core import lifeline, progress
from nvembed.core.artifacts import write_file
from nvembed.core.digests import code_digest
from nvembed.core.errors import UserError
from nvembed.core.state import hold

_LOG_LINES = 15
_COLOURS = re.compile(r"\x1b\[\d+m")
_FAILED = re.compile(r"Task .+ finished with status FAILURE")


@dataclass(frozen=True)
class RunFolders:
    """Where one run's files lie, all of them absolute."""

    output: Path
    name: str

    @property
    def log(self) -> Path:
        """KFP's log and everything the tasks print."""
        return self.output / "logs" / f"{self.name}.log"

    @property
    def progress(self) -> Path:
        """Events of the tasks and the runner."""
        return self.log.with_suffix(".progress.jsonl")

    @property
    def result(self) -> Path:
        """What the runner leaves (`local_runner.Result`)."""
        return self.log.with_suffix(".result.json")


def local_image() -> str:
    """A made-up image that stands for this very code, so that KFP's cache misses when the code changed."""
    return f"local/python@sha256:{code_digest()}"


def execute(pipeline: Path, parameters: dict[str, Any], output_dir: Path, tracking_uri: str, screen: Screen) -> Result:
    """Execute a compiled pipeline with KFP's local runner and draw its progress.

    Args:
        pipeline: the compiled YAML.
        parameters: of the pipeline; those it does not know are left out.
        output_dir: gets `runs`, `cache`, `state` and `logs`.
        tracking_uri: MLflow's address for the tasks.

    Raises:
        UserError: another run lives in `output_dir`, or a task says that the user's input is wrong.
        Failure: a task failed for any other reason; names the log.
        KeyboardInterrupt: after everything the run started has ended.
    """
    output = output_dir.expanduser().resolve()
    folders = RunFolders(output, f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}")
    folders.log.parent.mkdir(parents=True, exist_ok=True)
    with _only_run_in(output), terminate_as_interrupt():
        if leftovers := wait_for_leftovers(output, tell=screen.say):
            raise UserError(
                f"{output}: tasks of a killed run still live (process {leftovers[0]}); end them, then run again"
            )
        board = _watch(_start(pipeline, parameters, folders, tracking_uri), folders, screen)
    return _judge(board, folders)


@contextlib.contextmanager
def _only_run_in(output: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(output, timeout=3))
        except TimeoutError:
            holder = (output / ".lock").read_text(encoding="utf-8").strip() or "unknown"
            raise UserError(
                f"--output-dir {output}: another run works here (process {holder}); wait for it or name another folder"
            ) from None
        yield


def _start(
    pipeline: Path, parameters: dict[str, Any], folders: RunFolders, tracking_uri: str
) -> subprocess.Popen[bytes]:
    job = Job(
        pipeline=str(pipeline),
        parameters=parameters,
        pipeline_root=str(folders.output / "runs"),
        cache_root=str(folders.output / "cache"),
        workspace=str(folders.output / ".workspace"),
        result=str(folders.result),
    )
    job_file = folders.log.with_suffix(".job.json")
    write_file(job_file, json.dumps(asdict(job), indent=1))
    with folders.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "nvembed.cli.local_runner", str(job_file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(folders, tracking_uri),
            start_new_session=True,  # an interrupt at the keyboard comes to us alone, and we end the others in order
        )


def _environment(folders: RunFolders, tracking_uri: str) -> dict[str, str]:
    """See docs/architecture.md, "Environment of a task"."""
    environment = dict(os.environ)
    environment.setdefault("NVEMBED_STATE", str(folders.output / "state"))
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment.setdefault("GOMP_SPINCOUNT", "5000")  # two tasks at a time share the cores: threads must not spin long
    environment.update(
        {
            lifeline.ENVIRONMENT: lifeline.process_identity(os.getpid()) or f"{os.getpid()}:",
            progress.ENVIRONMENT: str(folders.progress),
            "NVEMBED_RUN_ID": str(uuid.uuid4()),
            "MLFLOW_TRACKING_URI": tracking_uri,
            "PYTHONUNBUFFERED": "1",
        }
    )
    environment.pop("KFP_RUN_ID", None)
    return environment


def _watch(process: subprocess.Popen[bytes], folders: RunFolders, screen: Screen) -> Board:
    board, tail = Board(), Tail(folders.progress)
    try:
        while True:
            ended = process.poll() is not None  # asked first, so that the last events are read after the end
            for event in tail.events():
                board.apply(event)
            if ended:
                break
            screen.update(board)
            time.sleep(0.2)
        if process.returncode:
            board.end_running()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; run the same command again to go on from the last checkpoint") from None
    finally:
        with contextlib.suppress(KeyboardInterrupt):  # one more must not leave anything behind
            end_tree(process, tell=screen.say)
        screen.close(board)
    return board


def _judge(board: Board, folders: RunFolders) -> Result:
    result = _read_result(folders)
    if result.succeeded:
        return result
    for error in board.errors:
        if error.user:
            raise UserError(f"{error.task}: {error.text}")
    _show_log_end(folders.log)
    if board.errors:
        raise Failure(f"{board.errors[0].task} failed: {board.errors[0].text}", folders.log)
    failed = board.failed()
    if failed:
        reason = failed[0].reason or "it ended without a word; was it killed, or out of memory?"
        raise Failure(f"{failed[0].name} failed: {reason}", folders.log)
    raise Failure(f"the pipeline failed: {result.message}", folders.log)


def _read_result(folders: RunFolders) -> Result:
    try:
        return Result(**json.loads(folders.result.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Result(succeeded=False, message="the local runner ended before the pipeline did")


def _show_log_end(log: Path) -> None:
    """Show what the failed task said last; what KFP and the closing task wrote after it helps nobody."""
    lines = _COLOURS.sub("", log.read_text(encoding="utf-8", errors="replace")).splitlines()
    said = [line.rstrip() for line in lines if line.strip() and set(line.strip()) != {"-"}]
    end = next((at for at, line in enumerate(said) if _FAILED.search(line)), len(said))
    for line in said[max(0, end - _LOG_LINES) : end]:
        click.echo(f"  {line.strip()}", err=True)
