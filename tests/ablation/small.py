"""What the ablation's tests share: a file of pairs, an ablation over a random model, and planted measurements."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvembed.ablation.cells import Work
from nvembed.core.artifacts import read_manifest
from nvembed.evaluation.results import write_results
from nvembed.evaluation.scoring import Scored
from nvembed.evaluation.sets import read_sets
from nvembed.recipe import Recipe, load_recipe

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "ru", "te", "so", "ny", "pa") for b in ("ba", "den", "fi", "gor", "hul")]

TREE: dict[str, Any] = {
    "name": "small",
    "model": {
        "backbone": "random:mistral-tiny",
        "latent": {"num_latents": 8, "num_heads": 2, "head_dim": 16},
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
        "max_length": 96,
        "precision": "float32",
    },
    "data": {"min_test_queries": 20, "instructions": {"retrieval": "Find it"}},
    "mining": {"teacher": {"backbone": "random:mistral-tiny", "max_length": 96}, "num_negatives": 1, "depth": 20},
    "stage1": {"steps": 2, "batch_size": 4, "negatives": 1, "query_max_length": 96, "document_max_length": 96},
    "stage2": {"steps": 2, "batch_size": 4, "negatives": 1, "query_max_length": 96, "document_max_length": 96},
    "evaluation": {"bootstrap_samples": 200},
    "resources": {"device": "cpu", "threads": 1},
    "ablation": {
        "seeds": [1, 2],
        "learning_rate_factors": [0.5, 2.0],
        "at_once": 1,
        "families": {
            "pooling": {
                "question": "does the block pool better?",
                "baseline": "latent",
                "stages": ["stage1"],
                "variants": {
                    "mean": {"changes": {"model.pooling": "mean"}, "paper": 71.71},
                    "last": {"changes": {"model.pooling": "last"}, "paper": 71.63},
                    "latent": {"label": "latent block", "paper": 72.31},
                },
            },
            "stages": {
                "question": "is the other order worse?",
                "baseline": "first",
                "variants": {"first": {"stages": ["stage1"]}, "second": {"stages": ["stage2"]}},
            },
        },
    },
}


def write_pairs(file: Path, count: int = 300) -> Path:
    draw = random.Random(3)
    rows = [
        {"query": " ".join(draw.sample(WORDS, 5)), "positive": " ".join(draw.sample(WORDS, 15))} for _ in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def small_recipe(pairs: Path, *overrides: str) -> Recipe:
    return load_recipe(json.dumps(TREE) + "\n", [f"data.path={pairs}", *overrides])


def plant(work: Work, split: str, score: Callable[[int], float]) -> None:
    """Write the evaluation folder that a cell's work would have written, query `i` scored `score(i)`."""
    scored = []
    for source in read_sets(work.eval_sets, [split]):
        items = [{"item": query, "score": score(row)} for row, query in enumerate(source.queries)]
        mean = sum(item["score"] for item in items) / len(items)
        scored.append(Scored(source, mean, {"ndcg_at_10": mean}, items))
    write_results(
        work.folder / split,
        "stage1",
        work.evaluation,
        variants={"trained": scored},
        eval_sets=read_manifest(work.eval_sets).content,
        inputs={},
        licenses={},
        speed={},
    )
