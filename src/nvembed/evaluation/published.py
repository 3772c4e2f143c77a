"""What the published NV-Embed-v1 and -v2 score on MTEB (eng, v1), task by task, to stand beside one's own model.

The figures are the authors' own, from their model cards' MTEB records; per cent there, shares of 1 here.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("published_scores.tsv")
MODELS = {"nv_embed_v1": "NV-Embed-v1", "nv_embed_v2": "NV-Embed-v2"}


@functools.cache
def published_scores() -> dict[str, dict[str, float]]:
    """Task → model → main score in [0, 1]. A task's name is mteb's, without the subset that the table scores."""
    with FILE.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {
        row["task"].partition(" (")[0]: {name: float(row[column]) / 100 for column, name in MODELS.items()}
        for row in rows
    }


def published_table(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]] | None:
    """Challenger and published models on the tasks that both were measured on, and their mean; None without one.

    The published figures are of the test sets at the time; a task that mteb has changed since is not the same task.
    """
    split, challenger = content["primary"]["split"], content["challenger"]
    rows = content["scores"].get(challenger, {}).get(split, {})
    known = {task: published_scores()[task] for task in sorted(rows) if task in published_scores()}
    if not known:
        return None
    names = list(MODELS.values())
    lines = [[task, _points(rows[task]["score"]), *(_points(known[task][name]) for name in names)] for task in known]
    mean = [sum(rows[task]["score"] for task in known), *(sum(known[task][name] for task in known) for name in names)]
    lines.append([f"mean of {len(known)}", *(_points(total / len(known)) for total in mean)])
    return ["task", "this model", *names], lines


def _points(share: float) -> str:
    return f"{100 * share:.2f}"
