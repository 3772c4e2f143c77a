"""How long an ablation will take: from a few steps of each kind of training, measured where it will run.

Kinds differ in backbone, texts of a batch and their lengths; pooling, attention and learning rates hardly change the
time of a step. A measurement takes three steps and 64 texts, side by side as the cells will be, and is kept.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nvembed.ablation.cells import Work
from nvembed.ablation.shared import is_whole, piece
from nvembed.core.artifacts import write_file

STEPS, TEXTS = 3, 64
FILE = "timing.json"
SCORING = {"retrieval": 1.0, "classification": 4.0, "clustering": 2.0}
"""Seconds that mteb takes beside encoding, for the laptop's eval sets."""


@dataclass(frozen=True)
class Timing:
    """Seconds to start a stage, for a step, and to encode a text."""

    start: float
    step: float
    text: float

    def of(self, work: Work, split: str, *, trained: bool) -> float:
        """Seconds for a cell's training (unless it is trained) and one split."""
        training = 0.0 if trained else sum(self.start + self.step * stage.steps for _, stage in work.stages)
        return training + measuring(work.eval_sets, split, self.text)


def kind(work: Work) -> dict[str, Any]:
    """What a step's time depends on."""
    stage = work.stages[0][1]
    keys = ("batch_size", "negatives", "query_max_length", "document_max_length", "micro_batch_tokens")
    return {
        "backbone": work.model.backbone,
        "precision": work.model.precision,
        "stage": {key: getattr(stage, key) for key in keys},
        "machine": platform.node(),
        "threads": work.resources.threads,
    }


def kept_timing(work: Work) -> Timing | None:
    """A measurement made earlier."""
    try:
        return Timing(**json.loads((piece("timing", **kind(work)) / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def measure(work: Work) -> None:
    """Take a few steps of a cell's first stage with the real engine, encode some texts, and keep the times."""
    from nvembed.evaluation.running import load_trained
    from nvembed.training import train_stage

    name, stage = work.stages[0]
    short = stage.model_copy(update={"steps": STEPS, "warmup_steps": 1, "checkpoint_steps": STEPS})
    with tempfile.TemporaryDirectory(prefix="nvembed-timing-") as folder:
        out, began = Path(folder) / "adapter", time.monotonic()
        train_stage(name, short, work.model, work.resources, work.dataset, None, out)
        whole = time.monotonic() - began
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps = [stage.batch_size / json.loads(line)["examples_per_second"] for line in lines]
        model = load_trained(work.model, work.resources, out)
        texts = _some_texts(work.eval_sets)
        began = time.monotonic()
        model.encode(texts, precision=work.model.precision)
        text = (time.monotonic() - began) / len(texts)
    timing = Timing(max(whole - sum(steps), 0.0), min(steps[1:]), text)
    write_file(piece("timing", **kind(work)) / FILE, json.dumps(asdict(timing), indent=2) + "\n")


def unmeasured(works: Iterable[Work]) -> list[Work]:
    """One work of each kind that has no measurement yet."""
    found = {json.dumps(kind(work), sort_keys=True): work for work in works if kept_timing(work) is None}
    return list(found.values())


def estimate(work: Work, split: str, *, trained: bool = False) -> float:
    """Seconds that a cell has still to take for a split; 0 if it is done, and for what was never measured.

    `trained` says that its training is counted elsewhere.
    """
    timing = kept_timing(work)
    if work.done(split) or timing is None:
        return 0.0
    trained = trained or all(is_whole(work.folder / name) for name, _ in work.stages)
    return timing.of(work, split, trained=trained)


def measuring(eval_sets: Path, split: str, text: float) -> float:
    """Seconds to measure a split where a text takes `text` seconds."""
    import pyarrow.parquet as pq

    seconds = 0.0
    for folder in sorted(path.parent for path in (eval_sets / split).glob("*/task.json")):
        rows = sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet") if file.stem != "qrels")
        seconds += rows * text + SCORING.get(folder.name, 1.0)
    return seconds


def _some_texts(eval_sets: Path) -> list[str]:
    import pyarrow.parquet as pq

    texts: list[str] = []
    for file in sorted((eval_sets / "dev").glob("*/*.parquet")):
        if file.stem in ("corpus", "test"):
            texts += pq.read_table(file, columns=["text"]).column("text").to_pylist()[:TEXTS]
    return texts[:TEXTS]
