"""Which tasks are no test of what a model does with data that it has not seen: it was trained on their training split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nvembed.evaluation.plan import Planned
    from nvembed.recipe import Data

_LEFT_OUT = re.compile(r"(classification|clustering|retrieval|reranking|hardnegatives|sts|pair|dataset|train)$")
_VERSION = re.compile(r"\.v\d+$", re.IGNORECASE)


def trained_on(data: Data) -> dict[str, dict[str, list[str]]]:
    """Candidate → source of the mix → hub datasets it names, those that it must not hold the test texts of included.

    Stage 2 goes on from stage 1, so it has seen what that has.
    """
    stages = {number: {name: _repos(data, name) for name in data.of_stage(number)} for number in (1, 2)}
    return {"stage1": stages[1], "stage2": stages[1] | stages[2]} if data.sources else {}


def sources_seen(task: Planned, seen: Mapping[str, Sequence[str]]) -> list[str]:
    """The training sources that are a task's own training split, by name: of the same dataset, or of the same name."""
    mine = {_plain(name) for name in task.known_as}
    repos = {name.lower() for name in task.known_as if "/" in name}
    return sorted(
        source
        for source, named in seen.items()
        if repos & {repo.lower() for repo in named} or mine & {_plain(name) for name in (source, *named)}
    )


def _repos(data: Data, name: str) -> list[str]:
    source = data.sources[name]
    return [repo for repo in (source.repo, *(table.repo for table in source.held_out)) if repo]


def _plain(name: str) -> str:
    """`mteb/banking77`, `Banking77Classification` and `banking-77` are one."""
    bare = re.sub(r"[^a-z0-9]", "", _VERSION.sub("", name.rpartition("/")[2]).lower())
    while (shorter := _LEFT_OUT.sub("", bare)) != bare and shorter:
        bare = shorter
    return bare
