"""The words of a verdict: a sentence a reason, and a paragraph for whoever decides."""

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
METRIC_NAMES = {
    "ndcg_at_10": "nDCG@10",
    "accuracy": "accuracy",
    "v_measure": "v-measure",
    "map_at_1000": "MAP@1000",
    "max_over_subqueries_map_at_1000": "MAP@1000",
    "mrr_at_10": "MRR@10",
    "recall_at_10": "recall@10",
    "max_ap": "average precision",
    "cosine_spearman": "Spearman correlation",
    "f1": "F1",
    "mean": "mean score",
}
UNITS = {
    "Retrieval": "queries",
    "Reranking": "queries",
    "Clustering": "documents",
    "STS": "pairs",
    "PairClassification": "pairs",
    "BitextMining": "sentences",
}


@dataclass(frozen=True)
class Difference:
    """score(a) − score(b) on one task, with the paired interval.

    Attributes:
        p, low, high: of this task alone. p_corrected, low_all, high_all: where all tasks of the split are looked at
            together (`correction`).
    """

    task: str
    split: str
    metric: str
    a: str
    b: str
    mean: float
    low: float
    high: float
    p: float
    p_corrected: float
    low_all: float
    high_all: float


def outcome(row: Difference, bound: float, confidence: float, *, required: str) -> tuple[bool, str]:
    """Whether a difference's interval lies above a bound, and a sentence about it."""
    passed = row.low > bound
    where = f"{capital(in_words(row.task))} ({METRIC_NAMES.get(row.metric, row.metric)}, {row.split})"
    return passed, (
        f"{where}: {name_of(row.a)} stands at {signed(row.mean)} against {name_of(row.b)}, {confidence:.0%} interval "
        f"{interval(row.low, row.high)}; its lower end is {'above' if passed else 'not above'} {required} of "
        f"{signed(bound)}."
    )


def gate_difference(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The challenger's paired difference to its rival on the gate task, of `comparison.json`'s content."""
    primary, verdict = content["primary"], content["verdict"]
    wanted = (primary["split"], primary["task"], verdict["challenger"], verdict["beats"])
    rows = [*content["differences"], *content.get("mean_differences", [])]
    return next((d for d in rows if (d["split"], d["task"], d["a"], d["b"]) == wanted), None)


def sentence(verdict: Mapping[str, Any]) -> str:
    """The verdict in one sentence."""
    who, rival = capital(name_of(verdict["challenger"])), name_of(verdict["beats"])
    gate, failed = verdict["gate"]["task"], verdict["failed"]
    if verdict["passed"]:
        return f"{who} beats {rival}."
    if gate in failed:
        return f"{who} is not shown to beat {rival}."
    if failed:
        return f"{who} beats {rival} on {in_words(gate)}, but may lose too much on {' and '.join(failed)}."
    other = next(one["short"] for one in verdict["conditions"] if one["passed"] is False)
    return f"{who} beats {rival} on {in_words(gate)}, but {other}."


def paragraph(verdict: Mapping[str, Any], primary: Mapping[str, Any], confidence: float) -> str:
    """The verdict for a reader who knows no statistics.

    Args:
        verdict: with its conditions and the uses of the test sets. primary: `scores` (challenger's, rival's), `items`,
            `type`, `metric`, `tasks` (how many are averaged) and `difference` of the gate's metric.
    """
    who, rival, passed = name_of(verdict["challenger"]), name_of(verdict["beats"]), verdict["passed"]
    said = [f"{capital(who)} {'may take the place of' if passed else 'should not take the place of'} {rival}."]
    gap = primary["difference"]
    if gap is not None:
        own, other = primary["scores"]
        unit = UNITS.get(primary["type"], "texts")
        on = (
            f"On average over {primary['tasks']} tasks"
            if primary["tasks"] > 1
            else f"On {in_words(verdict['gate']['task'])} ({primary['items']:,} {unit})"
        )
        said.append(
            f"{on} it scores {own:.3f} where {rival} scores {other:.3f} ({_metric(primary['metric'])}): a difference "
            f"of {signed(gap.mean)}, with {confidence:.0%} confidence between {signed(gap.low)} and "
            f"{signed(gap.high)}; "
            f"more than {signed(verdict['gate']['min_gain'])} was asked for."
        )
    said += [one["plain"] for one in verdict["conditions"] if one["plain"]]
    return " ".join([*said, *_uses(verdict)])


def _uses(verdict: Mapping[str, Any]) -> list[str]:
    uses = verdict["uses"]
    if not uses:
        return []
    most, chance = max(uses.values()), verdict["chance_to_pass_by_luck"]
    if most == 1:
        return [
            "It is the first model that these test sets judge; one that is no better would pass with a chance of "
            f"about {chance['this']:.1%}."
        ]
    return [
        f"These test sets have judged {most} models so far: of that many that are no better, one would have passed by "
        f"luck with a chance of up to {chance['so_far']:.0%}."
    ]


def _metric(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric)


def in_words(gate_task: str) -> str:
    """`mean:Retrieval` as a reader says it."""
    word, _, kind = gate_task.partition(":")
    if word != "mean":
        return gate_task
    return f"the mean of its {kind} tasks" if kind else "the mean of its tasks"


def listed(names: Sequence[str], most: int = 3) -> str:
    """A few of many names."""
    shown = [*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])]
    return " and ".join([part for part in (", ".join(shown[:-1]), shown[-1]) if part])


def name_of(candidate: str) -> str:
    """A candidate in words."""
    return NAMES.get(candidate, candidate)


def capital(text: str) -> str:
    """With a capital first letter; the rest as it is."""
    return text[:1].upper() + text[1:]


def signed(value: float) -> str:
    """+0.043, −0.020: with a real minus."""
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text.replace("-", "−")


def interval(low: float, high: float) -> str:
    """[+0.024, +0.063]"""
    return f"[{signed(low)}, {signed(high)}]"
