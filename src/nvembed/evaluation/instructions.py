"""The task sentence of an MTEB task: the one NV-Embed was published with, where there is one.

`instructions.json` holds them: of retrieval, STS and summarisation the checkpoint's own, of the others the ones that
mteb names. A task made from another (`FEVERHardNegatives`, `StackExchangeClustering.v2`) takes that one's. What was
never published takes mteb's prompt for the task, then mteb's for its type.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask
    from mteb.abstasks.task_metadata import TaskMetadata

SIDED = ("Retrieval", "Reranking", "InstructionRetrieval", "InstructionReranking")
"""Types whose tasks have queries and documents; of every other type all texts are alike."""


class Instruction(NamedTuple):
    """Task sentences of the two sides; "": none."""

    query: str
    document: str


def instruction_for(task: AbsTask) -> Instruction:
    """A task's sentences. Both sides have the same where the task is symmetric."""
    about = task.metadata
    known, by_type = _published()
    for name in (about.name, *(about.adapted_from or [])):
        if name in known:
            return known[name]
    if about.type in by_type:
        return Instruction(by_type[about.type], by_type[about.type])
    if about.type in SIDED:
        if about.name.startswith(_GROUP):
            return known[f"{_GROUP}Retrieval"]
        if isinstance(about.prompt, dict):
            return Instruction(prompt_of(about, "query"), prompt_of(about, "document"))
        return Instruction(prompt_of(about, "query") or task.abstask_prompt, "")
    sentence = prompt_of(about, "query") or _of_the_same_data(about) or task.abstask_prompt
    return Instruction(sentence, sentence)


def prompt_of(about: TaskMetadata, side: str) -> str:
    """What a task's metadata names for a side, "query" or "document".

    A single prompt belongs to queries, and to every text of a task without sides.
    """
    prompt = about.prompt
    if prompt is None:
        return ""
    if isinstance(prompt, str):
        return prompt if side == "query" else ""
    return str(prompt.get(side) or "")  # type: ignore[call-overload]


_GROUP = "CQADupstack"
"""Twelve forums, published as one task."""


@functools.cache
def _published() -> tuple[dict[str, Instruction], dict[str, str]]:
    file = resources.files("nvembed.evaluation") / "instructions.json"
    tree: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {name: Instruction(**sides) for name, sides in tree["tasks"].items()}, tree["types"]


def _of_the_same_data(about: TaskMetadata) -> str:
    """The sentence of the published task with the same texts, whatever mteb calls the two."""
    import mteb

    path = about.dataset["path"]
    known, _ = _published()
    tasks = mteb.get_benchmark("MTEB(eng, v1)").tasks
    same = [task.metadata for task in tasks if not hasattr(task, "tasks") and task.metadata.dataset["path"] == path]
    return next((known[found.name].query for found in same if found.name in known), "")
