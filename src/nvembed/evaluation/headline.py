"""The few numbers of a comparison that one run is compared with another by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvembed.evaluation.verdict import gate_difference


def challenger_numbers(content: Mapping[str, Any]) -> dict[str, float]:
    """What became of the trained model, of `comparison.json`'s content, the gain first; empty if nothing was trained.

    `challenger.gain`, `.gain_low` and `.gain_high` (over the one to beat, on what the gate asks for), `.passed` (1 or
    0), and `.score_<task>` for each task of the primary split.
    """
    challenger, split = content["verdict"].get("challenger"), content["primary"]["split"]
    if challenger is None:
        return {}
    numbers: dict[str, float] = {}
    if (gap := gate_difference(content)) is not None:
        names = {"gain": "mean", "gain_low": "low", "gain_high": "high"}
        numbers |= {f"challenger.{name}": float(gap[key]) for name, key in names.items()}
    numbers["challenger.passed"] = float(content["verdict"]["passed"])
    for task, row in content["scores"].get(challenger, {}).get(split, {}).items():
        numbers[f"challenger.score_{task}"] = float(row["score"])
    return numbers
