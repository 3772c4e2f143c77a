"""Which queries a model won and lost against another, by where the first right passage stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nvembed.evaluation.results import Results


@dataclass(frozen=True)
class Change:
    """One query: ranks of its first relevant passage before and after (None: not among the first 100)."""

    query: str
    passage: str
    before: int | None
    after: int | None
    gain: float
    first_before: str
    first_after: str


@dataclass(frozen=True)
class Changes:
    """Counts of queries whose first relevant passage moved, and the clearest of them."""

    task: str
    better: int
    worse: int
    equal: int
    won: list[Change]
    lost: list[Change]


def query_changes(content: Mapping[str, Any], models: Mapping[str, Results], shown: int = 5) -> Changes | None:
    """Queries of the gate task (or the first retrieval task) won and lost by the challenger against its rival."""
    verdict, split = content["verdict"], content["primary"]["split"]
    after, before = models.get(verdict["challenger"]), models.get(verdict["beats"])
    if after is None or before is None:
        return None
    tasks = [task for (where, task), row in after.tasks.items() if where == split and row["type"] == "Retrieval"]
    tasks = [task for task in tasks if (split, task) in before.tasks]
    if not tasks:
        return None
    task = content["primary"]["task"] if content["primary"]["task"] in tasks else tasks[0]
    pairs = zip(before.items[split, task], after.items[split, task], strict=True)
    changes = [_change(old, new) for old, new in pairs]
    moves = [_place(change.before) - _place(change.after) for change in changes]
    by_gain = sorted(changes, key=lambda c: (c.gain, _place(c.before) - _place(c.after), c.query), reverse=True)
    return Changes(
        task=task,
        better=sum(move > 0 for move in moves),
        worse=sum(move < 0 for move in moves),
        equal=sum(move == 0 for move in moves),
        won=[change for change in by_gain[:shown] if change.gain > 0],
        lost=[change for change in by_gain[::-1][:shown] if change.gain < 0],
    )


def _change(old: Mapping[str, Any], new: Mapping[str, Any]) -> Change:
    return Change(
        query=new["text"],
        passage=new["relevant_text"],
        before=old["rank"],
        after=new["rank"],
        gain=new["score"] - old["score"],
        first_before=old["top_text"],
        first_after=new["top_text"],
    )


def _place(rank: int | None) -> int:
    return rank or 101
