"""Small trained models and evaluations with planted scores."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nvembed.core.artifacts import output_folder, write_manifest
from nvembed.evaluation.results import write_results
from nvembed.evaluation.scoring import Scored
from nvembed.evaluation.sets import EvalSet
from nvembed.recipe import Evaluation, Model, Recipe, Registration, load_recipe

RECIPE: Recipe = load_recipe("tiny")
MODEL: Model = RECIPE.model
EVALUATION = Evaluation(bootstrap_samples=100)
GATE = Registration(name="nvembed-tiny")
EVAL_SETS = "e" * 64


@dataclass(frozen=True)
class Contest:
    """A comparison folder and the evaluation folders it came from."""

    folder: Path
    results: list[Path]


def train_adapter(out: Path, seed: int) -> None:
    import torch

    from nvembed.modeling import NVEmbedModel, backbone_digest

    model = NVEmbedModel.from_section(MODEL, trainable=True)
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=drawn) * 0.05)
    with output_folder(out) as folder:
        model.save_trainable(folder)
        extra = {"model": MODEL.model_dump(mode="json"), "backbone_digest": backbone_digest(MODEL)}
        section = RECIPE.stage2.model_dump(mode="json")
        write_manifest(folder, kind="adapter", section=section, licenses={"python docs": "PSF-2.0"}, extra=extra)


def evaluation(out: Path, candidate: str, gain: float, inputs: dict[str, str] | None = None) -> Path:
    """An evaluation folder of sixty queries whose scores are those of the backbone plus `gain`."""
    scores = np.linspace(0.2, 0.6, 60) + gain
    texts = {"text": "a query", "relevant_text": "its passage", "top_text": "another", "rank": 2, "top": ["d1"]}
    items: list[dict[str, Any]] = [{"item": f"q{n}", "score": float(score), **texts} for n, score in enumerate(scores)]
    source = EvalSet("test", "retrieval", "Retrieval", "Do it", "", "ndcg_at_10")
    scored = Scored(source, float(scores.mean()), {"ndcg_at_10": float(scores.mean())}, items)
    write_results(
        out,
        candidate,
        EVALUATION,
        variants={"only": [scored]},
        eval_sets=EVAL_SETS,
        inputs=inputs or {},
        licenses={},
        speed={},
    )
    return out


def eval_sets_folder(folder: Path) -> Path:
    """A folder of kind `eval` whose content digest is its own."""
    folder.mkdir(parents=True)
    (folder / "note").write_text(folder.name, encoding="utf-8")
    write_manifest(folder, kind="eval", section={})
    return folder


def retrieval_set(folder: Path) -> Path:
    """An eval folder with one small retrieval task, in the contract's layout."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    inner = folder / "test" / "retrieval"
    inner.mkdir(parents=True)
    head = {"name": "retrieval", "type": "Retrieval", "main_score": "ndcg_at_10"}
    task = {**head, "instruction": "Find it", "document_instruction": ""}
    (inner / "task.json").write_text(json.dumps(task), encoding="utf-8")
    numbers = [str(number) for number in range(12)]
    words = [f"{word} {number}" for number, word in enumerate(["open", "close", "read", "write"] * 3)]
    tables = {
        "corpus": {"id": numbers, "text": [f"{text} a file" for text in words]},
        "queries": {"id": numbers, "text": words},
        "qrels": {"query_id": numbers, "corpus_id": numbers, "score": [1] * 12},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), inner / f"{name}.parquet")
    write_manifest(folder, kind="eval", section={})
    return folder


def environment_without_import_paths() -> dict[str, str]:
    """For a process that must find what it needs by itself."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH",)}
