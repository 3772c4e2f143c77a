"""The frame around every task: its name, its life tied to the run's, its log, its tracking run, its error record."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.errors import UserError
from nvembed.core.lifeline import tie_to_parent
from nvembed.core.progress import TASK, emit
from nvembed.core.usage import Meter, add_usage, usage_of

if TYPE_CHECKING:
    from nvembed.tracking import TaskRun


@contextlib.contextmanager
def task(
    name: str,
    section: Mapping[str, Any] | None = None,
    *,
    made: Sequence[Path | str] = (),
    after: Sequence[Path | str] = (),
) -> Iterator[TaskRun]:
    """Run a task's body: start, tracking run, done or error, in the progress file and in MLflow alike.

    What the task used is written into the manifests of the folders `made`, beside what the folders `after` had taken
    that went into them and are shown nowhere else.
    """
    from nvembed import tracking

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.environ[TASK] = name
    tie_to_parent()
    started = time.monotonic()
    emit("start")
    try:
        with (
            Meter(name, tracking.pipeline_run_id() or "", gpus=tracking.VisibleGpus()) as meter,
            tracking.task_run(name, dict(section or {})) as run,
        ):
            yield run
            used = {**meter.read(), **run.usage}
            for folder in made:
                add_usage(folder, [*usage_of(after), used])
            run.log_metrics({f"usage.{key}": value for key, value in used.items() if isinstance(value, float)})
    except UserError as error:
        emit("error", text=str(error), user=True)
        raise
    except BaseException as error:
        emit("error", text=f"{type(error).__name__}: {error}", user=False)
        raise
    emit("done", seconds=round(time.monotonic() - started, 1))


def copy_report(folder: Path, report: Path | str | None) -> None:
    """Put a folder's `report.html` where the pipeline's own page for the task shows it."""
    source = folder / "report.html"
    if report and source.is_file():
        Path(report).parent.mkdir(parents=True, exist_ok=True)
        Path(report).write_bytes(source.read_bytes())
