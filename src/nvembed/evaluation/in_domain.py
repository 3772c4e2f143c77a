"""Which tasks show nothing of data that a model has not seen: it was trained on their training split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nvembed.recipe import Seen
from nvembed.recipe.base import TaskType

if TYPE_CHECKING:
    from nvembed.evaluation.plan import Planned
    from nvembed.recipe import Data

_TYPES: dict[TaskType, tuple[str, ...]] = {
    "retrieval": ("Retrieval", "Reranking", "InstructionRetrieval", "InstructionReranking"),
    "classification": ("Classification", "MultilabelClassification"),
    "clustering": ("Clustering",),
    "sts": ("STS",),
    "pair": ("PairClassification", "BitextMining"),
}
_LEFT_OUT = re.compile(r"(classification|clustering|retrieval|reranking|hardnegatives|sts|pair|dataset|train)$")
_VERSION = re.compile(r"\.v\d+$", re.IGNORECASE)


def trained_on(data: Data) -> dict[str, dict[str, Seen]]:
    """Candidate → source of the mix → its type and the hub datasets it names.

    Datasets whose test texts it must not hold are among them: their training split is what it was made of.

    Stage 2 goes on from stage 1, so it has seen what that has.
    """
    stages = {number: {name: _seen(data, name) for name in data.of_stage(number)} for number in (1, 2)}
    return {"stage1": stages[1], "stage2": stages[1] | stages[2]} if data.sources else {}


def sources_seen(task: Planned, seen: Mapping[str, Seen]) -> list[str]:
    """The training sources that are a task's own training split: of the same dataset, or of its name and type."""
    mine = {_plain(name) for name in task.known_as}
    repos = {name.lower() for name in task.known_as if "/" in name}
    return sorted(
        name
        for name, source in seen.items()
        if repos & {repo.lower() for repo in source.datasets}
        or (task.type in _TYPES[source.task_type] and mine & {_plain(one) for one in (name, *source.datasets)})
    )


def _seen(data: Data, name: str) -> Seen:
    source = data.sources[name]
    repos = [repo for repo in (source.repo, *(table.repo for table in source.held_out)) if repo]
    return Seen(task_type=source.task_type, datasets=repos)


def _plain(name: str) -> str:
    """`mteb/banking77`, `Banking77Classification` and `banking-77` are one."""
    bare = re.sub(r"[^a-z0-9]", "", _VERSION.sub("", name.rpartition("/")[2]).lower())
    while (shorter := _LEFT_OUT.sub("", bare)) != bare and shorter:
        bare = shorter
    return bare
