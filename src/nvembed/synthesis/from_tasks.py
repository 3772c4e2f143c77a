"""The paper's way: tasks are thought up, each once, and examples are written for them. For training alone."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from nvembed.core.digests import digest_text
from nvembed.data.evalsets import SYNTHETIC
from nvembed.data.overlap import plain_words
from nvembed.synthesis.answers import Answer
from nvembed.synthesis.asking import Request, make_request
from nvembed.synthesis.candidate import Candidate
from nvembed.synthesis.from_documents import pick
from nvembed.synthesis.parsing import parse_object, texts_in
from nvembed.synthesis.prompts import STS_TASK, VERSION, brainstorm_prompt, write_prompt

if TYPE_CHECKING:
    from nvembed.recipe import Synthesis

_SPARE = 1.25  # so many more tasks are thought up than wanted, since some come twice


@dataclass(frozen=True)
class Task:
    """A task sentence and its type."""

    kind: str
    sentence: str


def tasks_wanted(section: Synthesis) -> dict[str, int]:
    """How many tasks of each type, by weight; no fewer in all than `paper.tasks`."""
    types = {kind: weight for kind, weight in section.paper.types.items() if weight}
    whole = sum(types.values())
    return {kind: ceil(section.paper.tasks * weight / whole) for kind, weight in types.items()}


def brainstorm_requests(section: Synthesis) -> list[Request]:
    """Lists of tasks of every type. Similarity needs none: its task is always the same."""
    requests = []
    for kind, number in tasks_wanted(section).items():
        if kind == "sts":
            continue
        for turn in range(ceil(number * _SPARE / section.paper.tasks_per_request)):
            prompt = brainstorm_prompt(kind, section.paper.tasks_per_request, turn)
            requests.append(make_request(section, f"tasks/{kind}/{turn}", prompt))
    return requests


def read_tasks(section: Synthesis, requests: Sequence[Request], answers: Mapping[str, Answer]) -> list[Task]:
    """The different tasks of the answers, as many of each type as wanted, in the requests' order."""
    found: dict[str, dict[str, str]] = {kind: {} for kind in tasks_wanted(section)}
    for request in requests:
        kind, answer = request.name.split("/")[1], answers.get(request.name)
        parsed = parse_object(answer.text or "") if answer is not None else None
        for sentence in texts_in((parsed or {}).get("tasks", [])):
            found[kind].setdefault(plain_words(sentence), " ".join(sentence.split()))
    if "sts" in found:
        found["sts"] = {str(number): STS_TASK for number in range(tasks_wanted(section)["sts"])}
    wanted = tasks_wanted(section)
    return [Task(kind, text) for kind, texts in found.items() for text in list(texts.values())[: wanted[kind]]]


def example_requests(section: Synthesis, tasks: Sequence[Task], turn: int = 0) -> list[tuple[Task, str, Request]]:
    """(task, language, request) of every example that is to be written."""
    made, seen = [], dict[Task, int]()
    for task in tasks:
        first = seen.get(task, 0)
        seen[task] = first + section.paper.examples_per_task
        for number in range(first, first + section.paper.examples_per_task):
            made.append(example_request(section, task, number, turn))
    return made


def example_request(section: Synthesis, task: Task, number: int, turn: int) -> tuple[Task, str, Request]:
    """The `number`-th example of a task; `turn` counts second tries."""
    name = f"example/{task.kind}/{digest_text(task.sentence)[:16]}/{number}"
    draw = random.Random(f"{section.seed}/{name}")
    language = pick(draw, section.paper.languages)
    prompt = write_prompt(task.kind, task.sentence, language, section.paper.hard_negatives, draw)
    return task, language, make_request(section, f"{name}/{turn}", prompt)


def read_example(task: Task, language: str, request: Request, answer: Answer) -> list[Candidate]:
    """The example of an answer; none if it lacks a query or positive."""
    found = parse_object(answer.text or "") or {}
    query, positive = found.get("query"), found.get("positive")
    if not (isinstance(query, str) and isinstance(positive, str) and query.strip() and positive.strip()):
        return []
    return [
        Candidate(
            query=query.strip(),
            positive=positive.strip(),
            negatives=tuple(texts_in(found.get("hard_negatives", []))),
            split="train",
            task=f"{SYNTHETIC}-{task.kind}",
            task_type="sts" if task.kind == "sts" else "retrieval",
            instruction=task.sentence,
            kind=task.kind,
            length="",
            language=language,
            model=answer.model,
            prompt=VERSION,
            seed=request.seed,
            request=request.key,
        )
    ]
