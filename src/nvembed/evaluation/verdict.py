"""The gate: is the new model better where it must be, and no worse than allowed elsewhere?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMES = {
    "bm25": "BM25",
    "base": "the untrained backbone",
    "stage1": "stage 1",
    "stage2": "stage 2",
    "champion": "the champion",
}
METRIC_NAMES = {"ndcg_at_10": "nDCG@10", "accuracy": "accuracy", "v_measure": "v-measure"}


@dataclass(frozen=True)
class Difference:
    """score(a) − score(b) on one task, with the paired interval."""

    task: str
    split: str
    metric: str
    a: str
    b: str
    mean: float
    low: float
    high: float


def judge(
    differences: Sequence[Difference],
    *,
    challenger: str,
    rival: str,
    gate_task: str,
    split: str,
    min_gain: float,
    guard_margin: float,
    confidence: float,
) -> dict[str, Any]:
    """The verdict on `challenger` against `rival`: what it was to beat, whether it passed, one sentence a reason.

    It passes if on the gate task the lower end of the paired interval lies above `min_gain`, and on every other task
    of the split above −`guard_margin`.
    """
    rows = {d.task: d for d in differences if (d.split, d.a, d.b) == (split, challenger, rival)}
    outcomes: list[tuple[bool, str]] = []
    tasks = [gate_task, *sorted(set(rows) - {gate_task})]
    if gate_task in rows:
        outcomes.append(_outcome(rows[gate_task], min_gain, confidence, required="the required gain"))
    else:
        outcomes.append(
            (False, f"{gate_task} ({split}) was not measured for both {_name(challenger)} and {_name(rival)}.")
        )
    for task in tasks[1:]:
        outcomes.append(_outcome(rows[task], -guard_margin, confidence, required="the allowed loss"))
    return {
        "beats": rival,
        "challenger": challenger,
        "passed": all(passed for passed, _ in outcomes),
        "failed": [task for task, (passed, _) in zip(tasks, outcomes, strict=True) if not passed],
        "gate": {"task": gate_task, "min_gain": min_gain, "guard_margin": guard_margin},
        "reasons": [reason for _, reason in outcomes],
    }


def _outcome(row: Difference, bound: float, confidence: float, *, required: str) -> tuple[bool, str]:
    passed = row.low > bound
    where = f"{row.task.capitalize()} ({METRIC_NAMES.get(row.metric, row.metric)}, {row.split})"
    return passed, (
        f"{where}: {_name(row.a)} stands at {signed(row.mean)} against {_name(row.b)}, {confidence:.0%} interval "
        f"{interval(row.low, row.high)}; its lower end is {'above' if passed else 'not above'} {required} of "
        f"{signed(bound)}."
    )


def gate_difference(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The challenger's paired difference to its rival on the gate task, of `comparison.json`'s content."""
    primary, verdict = content["primary"], content["verdict"]
    wanted = (primary["split"], primary["task"], verdict["challenger"], verdict["beats"])
    return next((d for d in content["differences"] if (d["split"], d["task"], d["a"], d["b"]) == wanted), None)


def sentence(verdict: Mapping[str, Any]) -> str:
    """The verdict in one sentence."""
    who, rival = _name(verdict["challenger"]), _name(verdict["beats"])
    who, gate, failed = f"{who[0].upper()}{who[1:]}", verdict["gate"]["task"], verdict["failed"]
    if not failed:
        return f"{who} beats {rival}."
    if gate in failed:
        return f"{who} is not shown to beat {rival}."
    return f"{who} beats {rival} on {gate}, but may lose too much on {' and '.join(failed)}."


def _name(candidate: str) -> str:
    return NAMES.get(candidate, candidate)


def signed(value: float) -> str:
    """+0.043, −0.020: with a real minus."""
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text.replace("-", "−")


def interval(low: float, high: float) -> str:
    """[+0.024, +0.063]"""
    return f"[{signed(low)}, {signed(high)}]"
