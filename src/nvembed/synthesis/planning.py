"""What a run would ask, before anything is asked: requests, tokens, money."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nvembed.synthesis.asking import Request
from nvembed.synthesis.from_documents import passage_request
from nvembed.synthesis.from_tasks import Task, brainstorm_requests, example_requests, tasks_wanted
from nvembed.synthesis.prompts import STS_TASK, judge_prompt, likely_tokens, most_tokens

if TYPE_CHECKING:
    from nvembed.recipe import Synthesis
    from nvembed.synthesis.documents import Passage
    from nvembed.synthesis.prompts import Prompt

_EXAMPLE_TASK = "Given a question about everyday technology, retrieve a manual's section that answers it"


@dataclass(frozen=True)
class Part:
    """One kind of request. Tokens are estimates: four bytes to one sent, the length asked for of what is answered.

    `cost` is None where a price is not known; `most` is what it would be if every answer took all it may.
    """

    name: str
    requests: int
    known: int
    sent: int
    answered: int
    cost: float | None
    most: float | None


def plan_parts(section: Synthesis, passages: Iterable[Passage], known: frozenset[str] | set[str]) -> list[Part]:
    """The parts of a run without second tries. `known`: keys of requests that are answered on disk already."""
    asked = [passage_request(section, passage) for passage in passages]
    parts = [_part(section, "queries for passages", asked, known)] if asked else []
    if section.paper.enabled:
        parts.append(_part(section, "thinking up tasks", brainstorm_requests(section), known))
        tasks = [
            Task(kind, STS_TASK if kind == "sts" else f"{_EXAMPLE_TASK} ({number})")
            for kind, wanted in tasks_wanted(section).items()
            for number in range(wanted)
        ]
        made = [request for _, _, request in example_requests(section, tasks)]
        parts.append(_part(section, "examples of tasks", made, set()))
    if section.quality.judge.enabled:
        parts.append(_judging(section, asked))
    return parts


def _part(section: Synthesis, name: str, requests: list[Request], known: frozenset[str] | set[str]) -> Part:
    waiting = [request for request in requests if request.key not in known]
    sent = [_sent(request.prompt) for request in waiting]
    costs = [_cost(section, request, tokens) for request, tokens in zip(waiting, sent, strict=True)]
    priced = all(endpoint.priced for endpoint in section.endpoints)
    return Part(
        name,
        len(requests),
        len(requests) - len(waiting),
        sum(sent),
        sum(request.prompt.expected for request in waiting),
        sum(likely for likely, _ in costs) if priced else None,
        sum(most for _, most in costs) if priced else None,
    )


def _judging(section: Synthesis, asked: list[Request]) -> Part:
    """An estimate: every passage once, with its queries."""
    each = section.queries.per_passage
    empty = judge_prompt("", ["a query of about ten words as they are usually written"] * each)
    number = len(asked)
    passages = sum(_sent(request.prompt) for request in asked) // 2
    sent, answered = passages + number * _sent(empty), number * empty.expected
    priced = [endpoint for endpoint in section.endpoints if endpoint.priced]
    cost = None
    if len(priced) == len(section.endpoints):
        weight = sum(endpoint.weight for endpoint in priced)
        cost = sum(
            endpoint.weight / weight * (sent * (endpoint.price_in or 0) + answered * (endpoint.price_out or 0)) / 1e6
            for endpoint in priced
        )
    return Part("judging (estimated)", number, 0, sent, answered, cost, cost)


def _sent(prompt: Prompt) -> int:
    return likely_tokens(prompt)[0]


def _cost(section: Synthesis, request: Request, sent: int) -> tuple[float, float]:
    """Likely and greatest cost of a request; the latter is what the run sets aside for it."""
    endpoint, prompt = section.endpoints[request.endpoint], request.prompt
    price_in, price_out = endpoint.price_in or 0.0, endpoint.price_out or 0.0
    most_sent, most_answered = most_tokens(prompt, section.asking.spare_tokens)
    return (sent * price_in + prompt.expected * price_out) / 1e6, (
        most_sent * price_in + most_answered * price_out
    ) / 1e6
