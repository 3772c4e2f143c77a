"""All that is asked, in its order: queries for passages, tasks, examples of tasks; what cannot be used, once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nvembed.synthesis.answers import Answer
from nvembed.synthesis.asking import Asker, Request
from nvembed.synthesis.candidate import Candidate
from nvembed.synthesis.documents import Passage
from nvembed.synthesis.from_documents import passage_request, read_passage_answer
from nvembed.synthesis.from_tasks import (
    Task,
    brainstorm_requests,
    example_request,
    example_requests,
    read_example,
    read_tasks,
)

if TYPE_CHECKING:
    from nvembed.recipe import Synthesis

UNUSABLE = "an answer that cannot be used"
NOT_ASKED = "not asked: the budget was reached"
_SHOWN = 3


@dataclass
class Gathered:
    """What came of the requests.

    Attributes:
        candidates: as the models wrote them, in an order that does not depend on when answers came.
        requests: how many were to be asked, second tries not counted.
        failures: reason → requests that gave no example in the end.
        unusable: the beginnings of some answers that could not be used.
    """

    candidates: list[Candidate] = field(default_factory=list)
    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    unusable: list[str] = field(default_factory=list)
    tasks: int = 0


@dataclass
class _Item:
    """One thing to be written: its request of a turn, and how an answer to it is read."""

    request: Callable[[int], Request]
    read: Callable[[Request, Answer], list[Candidate]]


def gather(section: Synthesis, asker: Asker, passages: Sequence[Passage], split: Mapping[str, str]) -> Gathered:
    """Ask for all that the section wants and read it. Raises UserError as `Asker.ask` does."""
    gathered = Gathered()
    if passages:
        items = [_passage_item(section, passage, split[passage.id]) for passage in passages]
        _gather_items(section, asker, items, "writing queries", gathered)
    if section.paper.enabled:
        listing = brainstorm_requests(section)
        gathered.requests += len(listing)
        tasks = read_tasks(section, listing, asker.ask(listing, "thinking up tasks"))
        gathered.tasks = len(tasks)
        if tasks:
            made = example_requests(section, tasks)
            items = [_example_item(section, task, request) for task, _, request in made]
            _gather_items(section, asker, items, "writing examples", gathered)
    return gathered


def _passage_item(section: Synthesis, passage: Passage, split: str) -> _Item:
    return _Item(
        lambda turn: passage_request(section, passage, turn),
        lambda request, answer: read_passage_answer(section, passage, split, request, answer),
    )


def _example_item(section: Synthesis, task: Task, first: Request) -> _Item:
    number = int(first.name.split("/")[3])
    language = example_request(section, task, number, 0)[1]
    return _Item(
        lambda turn: example_request(section, task, number, turn)[2],
        lambda request, answer: read_example(task, language, request, answer),
    )


def _gather_items(section: Synthesis, asker: Asker, items: Sequence[_Item], label: str, gathered: Gathered) -> None:
    found: dict[int, list[Candidate]] = {}
    reasons: dict[int, str] = {}
    waiting = list(range(len(items)))
    for turn in range(1 + section.asking.second_tries):
        requests = {number: items[number].request(turn) for number in waiting}
        answers = asker.ask(list(requests.values()), label if not turn else f"{label}, try {turn + 1}")
        again = []
        for number, request in requests.items():
            answer = answers.get(request.name)
            if answer is None:
                if number not in reasons:
                    reasons[number] = (
                        f"no answer: {asker.given_up[request.name]}" if request.name in asker.given_up else NOT_ASKED
                    )
            elif candidates := items[number].read(request, answer):
                found[number] = candidates
                reasons.pop(number, None)
            else:
                reasons[number] = UNUSABLE
                if len(gathered.unusable) < _SHOWN:
                    gathered.unusable.append((answer.text or "")[:300] or "(an empty answer)")
                again.append(number)
        waiting = again
        if not waiting:
            break
    gathered.requests += len(items)
    gathered.failures.update(reasons.values())
    for number in sorted(found):
        gathered.candidates += found[number]
