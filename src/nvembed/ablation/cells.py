"""One cell: its stages trained by the real engine, one after the other, then measured on dev or on test.

A cell's folder in the state holds an adapter folder for each stage (until all is measured), `dev/` and `test/`
(evaluation folders, whichever were asked for) and `seconds.json`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvembed.ablation.plan import Cell
from nvembed.ablation.shared import Shared, is_whole, piece
from nvembed.core.artifacts import read_manifest, write_file
from nvembed.core.lifeline import tie_to_parent
from nvembed.core.state import hold
from nvembed.evaluation.results import Results, read_results
from nvembed.recipe import Evaluation, Model, Resources, Stage

logger = logging.getLogger(__name__)
SECONDS = "seconds.json"


@dataclass(frozen=True)
class Work:
    """A cell in the form in which another process does it: sections and folders. Equal work has one folder."""

    name: str
    folder: Path
    model: Model
    stages: tuple[tuple[str, Stage], ...]
    evaluation: Evaluation
    resources: Resources
    dataset: Path
    eval_sets: Path

    def done(self, split: str) -> bool:
        """Whether this split was measured."""
        return is_whole(self.folder / split)

    def results(self, split: str) -> Results:
        """What was measured on a split. Raises UserError if nothing was."""
        return read_results(self.folder / split)

    def scores(self, split: str) -> dict[str, float]:
        """A split's scores by task."""
        return {task: float(row["score"]) for (_, task), row in self.results(split).tasks.items()}


def work_of(cell: Cell, shared: Shared, tasks: list[str], threads: int) -> Work:
    """A cell's work, its folder named by sections, inputs and code."""
    recipe = cell.arm.recipe
    dataset, eval_sets = shared.mined(recipe), shared.eval_sets(tasks)
    model, stages = cell.model(), cell.stages()
    evaluation = recipe.evaluation
    folder = piece(
        "cell",
        model=model.model_dump(mode="json"),
        stages=[[name, stage.model_dump(mode="json")] for name, stage in stages],
        evaluation={"seed": evaluation.seed, "batch_tokens": evaluation.batch_tokens},
        dataset=read_manifest(dataset).content,
        eval_sets=read_manifest(eval_sets).content,
        processes=recipe.resources.processes,
    )
    resources = recipe.resources.model_copy(update={"threads": threads})
    return Work(str(cell), folder, model, tuple(stages), evaluation, resources, dataset, eval_sets)


def begin_worker(threads: int) -> None:
    """What a worker process does first: end with the run, keep its numbers out of the run's, share the cores."""
    import torch

    tie_to_parent()
    for name in ("NVEMBED_METRICS", "NVEMBED_PROGRESS"):  # of the ablation; a cell's own steps are not its metrics
        os.environ.pop(name, None)
    logging.getLogger("nvembed").setLevel(logging.WARNING)
    torch.set_num_threads(threads)


def do_work(work: Work, split: str) -> None:
    """Train what is not trained and measure one split.

    Raises:
        UserError, RuntimeError: as `training.train_stage` and `evaluation.evaluate` do.
    """
    from nvembed.evaluation import evaluate
    from nvembed.training import train_stage

    with hold(work.folder):
        if work.done(split):
            return
        started = time.monotonic()
        adapter: Path | None = None
        for name, stage in work.stages:
            out = work.folder / name
            if not is_whole(out):
                train_stage(name, stage, work.model, work.resources, work.dataset, adapter, out)
            adapter = out
        trained = time.monotonic()
        evaluation = work.evaluation.model_copy(update={"splits": [split]})
        last = work.stages[-1][0]
        evaluate(last, evaluation, work.model, work.resources, work.eval_sets, adapter, work.folder / split)
        _add_seconds(work.folder, {"train": trained - started, split: time.monotonic() - trained})


def training_of(work: Work) -> list[dict[str, float]] | None:
    """Headline numbers of a cell's stages, as kept beside its seconds."""
    stages: list[dict[str, float]] | None = read_seconds(work.folder).get("stages")
    return stages


def drop_adapters(work: Work) -> None:
    """Remove the trained tensors once nothing more will be measured with them."""
    for name, _ in work.stages:
        shutil.rmtree(work.folder / name, ignore_errors=True)


def read_seconds(folder: Path) -> dict[str, Any]:
    """What a cell took; empty if nothing is known."""
    try:
        found: dict[str, Any] = json.loads((folder / SECONDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _add_seconds(folder: Path, spent: Mapping[str, float]) -> None:
    """Seconds add up over the goes that a cell took; a stage's headline is kept when its adapter is dropped."""
    kept = read_seconds(folder)
    for name, seconds in spent.items():
        kept[name] = round(kept.get(name, 0.0) + seconds, 2)
    stages = [dict(read_manifest(path).headline) for path in sorted(folder.glob("stage*")) if is_whole(path)]
    write_file(folder / SECONDS, json.dumps({**kept, "stages": stages}, indent=2, sort_keys=True) + "\n")
