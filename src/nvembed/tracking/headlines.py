"""The few numbers a person looks at first, copied from every task's manifest to the pipeline's run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

from nvembed.core.artifacts import MANIFEST, Manifest, read_manifest
from nvembed.tracking.parent import find_parent

logger = logging.getLogger(__name__)


def headline_metrics(task: str, manifest: Manifest) -> dict[str, float]:
    """A manifest's headline as metrics `task/name`: two tasks may measure the same thing."""
    return {f"{task}/{name}": value for name, value in manifest.headline.items() if math.isfinite(value)}


def log_headlines(run_id: str | None, folders: Mapping[str, Path | str]) -> None:
    """Copy each folder's headline numbers to the pipeline's run, and link the task run that made it.

    A folder served from cache was made under an earlier pipeline run: its numbers are shown all the same, and the tag
    `nvembed.task.<task>` leads to the run that measured them. Comparison pictures and tables go along. Nothing happens
    without a server, a run id or the pipeline's run; a folder without a manifest is left out.
    """
    parent = find_parent(run_id)
    if parent is None:
        return
    from mlflow.entities import Metric, RunTag

    from nvembed.tracking.client import client
    from nvembed.tracking.courier import log_folder
    from nvembed.tracking.spool import metric_name

    mlflow, now = client(), int(time.time() * 1000)
    metrics, tags = [], []
    for task, folder in folders.items():
        if not (Path(folder) / MANIFEST).is_file():
            logger.info("%s: no manifest in %s, so no headline numbers", task, folder)
            continue
        manifest = read_manifest(folder)
        metrics += [
            Metric(metric_name(name), value, now, 0) for name, value in headline_metrics(task, manifest).items()
        ]
        if manifest.tracking_run_id:
            tags.append(RunTag(f"nvembed.task.{task}", manifest.tracking_run_id))
        if manifest.kind == "comparison":
            log_folder(mlflow, parent, Path(folder), "comparison")
    for start in range(0, max(len(metrics), len(tags)), 100):
        mlflow.log_batch(parent, metrics=metrics[start : start + 100], tags=tags[start : start + 100])
