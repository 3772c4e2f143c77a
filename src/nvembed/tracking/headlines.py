"""The few numbers a person looks at first, copied from every task's manifest to the pipeline's run."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.core.artifacts import MANIFEST, Manifest, read_manifest
from nvembed.tracking.parent import find_parent

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_DATASETS = {"dataset": "train", "mined": "mined", "eval": "eval"}  # kind of folder → name on the run's page
VERDICT = "nvembed.verdict"
_NOTE = "mlflow.note.content"


def headline_metrics(manifests: Mapping[str, Manifest]) -> dict[str, float]:
    """All headlines by name, `eval.base.test` as `eval/base.test`; what is no number is left out.

    A name that two tasks use becomes `task/name` for both. MLflow's pages gather what stands before the slash.
    """
    uses = Counter(name for manifest in manifests.values() for name in manifest.headline)
    return {
        f"{task}/{name}" if uses[name] > 1 else grouped(name): value
        for task, manifest in manifests.items()
        for name, value in manifest.headline.items()
        if math.isfinite(value)
    }


def grouped(name: str) -> str:
    """`data.train_examples` as `data/train_examples`: one group for what a task measures."""
    return name if "/" in name else name.replace(".", "/", 1)


def log_headlines(
    run_id: str | None,
    folders: Mapping[str, Path | str],
    eval_sets: Path | str | None = None,
    *,
    first: Mapping[str, float] | None = None,
    verdict: str = "",
) -> None:
    """Copy each folder's headline numbers to the pipeline's run, and link the task run that made it.

    `first` are the numbers that runs are compared by, `verdict` a sentence for the tag `nvembed.verdict`. MLflow's page
    that compares runs draws the metric that was logged first, so the first of `first` goes before all others.

    A folder served from cache was made under an earlier pipeline run: its numbers are shown all the same, and the tag
    `nvembed.task.<task>` leads to the run that measured them. Datasets, comparison pictures and the table of scores go
    along. Nothing happens without a server, a run id or the pipeline's run; a folder without a manifest is left out.
    """
    parent = find_parent(run_id)
    if parent is None:
        return
    from mlflow.entities import Metric, RunTag

    from nvembed.tracking.client import client
    from nvembed.tracking.courier import dataset_entry, log_dataset, log_folder
    from nvembed.tracking.spool import metric_name

    mlflow, now = client(), int(time.time() * 1000)
    manifests = {task: read_manifest(folder) for task, folder in folders.items() if (Path(folder) / MANIFEST).is_file()}
    compared = {grouped(name): value for name, value in (first or {}).items() if math.isfinite(value)}
    for name, value in compared.items():
        mlflow.log_metric(parent, metric_name(name), value, now, 0)
    numbers = {name: value for name, value in headline_metrics(manifests).items() if name not in compared}
    metrics = [Metric(metric_name(name), value, now, 0) for name, value in numbers.items()]
    tags = [RunTag(VERDICT, verdict[:5000])] if verdict else []
    tags += [RunTag(f"nvembed.task.{task}", m.tracking_run_id) for task, m in manifests.items() if m.tracking_run_id]
    for task, manifest in manifests.items():
        if manifest.kind == "comparison":
            log_folder(mlflow, parent, Path(folders[task]), "comparison")
            _describe(mlflow, parent, Path(folders[task]) / "table.md")
    for manifest in [*manifests.values(), *([read_manifest(eval_sets)] if eval_sets else [])]:
        if manifest.kind in _DATASETS:
            log_dataset(mlflow, parent, dataset_entry(_DATASETS[manifest.kind], manifest))
    for start in range(0, max(len(metrics), len(tags)), 100):
        mlflow.log_batch(parent, metrics=metrics[start : start + 100], tags=tags[start : start + 100])


def _describe(mlflow: MlflowClient, run: str, table: Path) -> None:
    """Put the table of scores below the first paragraph of the run's description, which its page shows on top."""
    if table.is_file():
        before = mlflow.get_run(run).data.tags.get(_NOTE, "").partition("\n\n")[0]
        mlflow.set_tag(run, _NOTE, f"{before}\n\n{table.read_text(encoding='utf-8')}"[:5000])
