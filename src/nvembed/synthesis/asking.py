"""Many requests: which endpoint gets which, several at once, nothing twice, within the budget."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nvembed.core.digests import digest_json, digest_text
from nvembed.core.progress import Progress
from nvembed.synthesis.answers import Answer, Answers, Spent
from nvembed.synthesis.budget import Budget
from nvembed.synthesis.endpoint import Endpoint, Trouble

if TYPE_CHECKING:
    from nvembed.recipe import Synthesis
    from nvembed.synthesis.prompts import Prompt


@dataclass(frozen=True)
class Request:
    """A prompt under a name that is its own. Endpoint and seed follow from the name: they are the same again."""

    name: str
    prompt: Prompt
    seed: int
    endpoint: int
    key: str


def make_request(section: Synthesis, name: str, prompt: Prompt) -> Request:
    """A request; its `key` covers all that can change the answer."""
    draw = int(digest_text(f"{section.seed}/{name}")[:16], 16)
    seed, share = draw % 2**31, (draw >> 31) / 2**33 * sum(endpoint.weight for endpoint in section.endpoints)
    chosen = 0
    for chosen, endpoint in enumerate(section.endpoints):  # noqa: B007 - the last one where rounding leaves a rest
        share -= endpoint.weight
        if share < 0:
            break
    asked = section.endpoints[chosen]
    decides = [asked.base_url, asked.model, prompt.messages, dict(prompt.schema), section.asking.temperature, seed]
    return Request(name, prompt, seed, chosen, digest_json(decides)[:32])


class Asker:
    """Asks what is not answered yet.

    Attributes:
        budget: what was spent on the requests that were given to `ask`, in this process or before.
        given_up: name → why, of requests without an answer.
    """

    def __init__(self, section: Synthesis, answers: Answers) -> None:
        self._section, self._answers = section, answers
        self.budget = Budget(section.caps, Spent())
        self.given_up: dict[str, str] = {}
        self._stop = threading.Event()

    @cached_property
    def endpoints(self) -> list[Endpoint]:
        """The endpoints, made when the first is needed: what is all on disk needs no client."""
        return [Endpoint(endpoint, self._section.asking) for endpoint in self._section.endpoints]

    def ask(self, requests: Sequence[Request], label: str) -> dict[str, Answer]:
        """Answers by name, of as many as the budget allows; each is on disk before it counts.

        Raises:
            UserError: an endpoint refuses the key or the model, or answers nothing for longer than `patience`.
        """
        self.budget.count(self._answers.spent({request.key for request in requests}))
        found = {request.name: answer for request in requests if (answer := self._answers.get(request.key))}
        waiting = [request for request in requests if request.name not in found]
        progress = Progress(label, len(requests))
        progress.update(len(found), self._spent_so_far())
        if waiting and self.budget.reached is None:
            for request, answer in self._ask_all(waiting):
                if answer is not None:
                    found[request.name] = answer
                progress.update(len(found), self._spent_so_far())
        progress.close()
        return found

    def _ask_all(self, waiting: Sequence[Request]) -> Iterable[tuple[Request, Answer | None]]:
        pool = ThreadPoolExecutor(self._section.asking.concurrency, thread_name_prefix="ask")
        assert self.endpoints  # made here, once, before threads look
        try:
            futures = {pool.submit(self._ask_one, request): request for request in waiting}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            self._stop.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # what is under way is paid for: it is waited for and kept

    def _ask_one(self, request: Request) -> Answer | None:
        endpoint = self.endpoints[request.endpoint]
        failures = 0
        while not self._stop.is_set():
            endpoint.wait(self._stop)
            aside = endpoint.most(request.prompt)
            if self._stop.is_set() or not self.budget.set_aside(aside):
                return None
            spent = Spent()
            try:
                reply = endpoint.send(request.prompt, request.seed)
                answer = self._answer(request, endpoint, reply.sent, reply.answered, text=reply.text)
                spent = answer.spent
                return answer
            except Trouble as trouble:
                if trouble.spent is not None:
                    spent = trouble.spent
                    self._answer(request, endpoint, spent.tokens, 0, cost=spent.cost)
                if trouble.kind == "refused":
                    self.given_up[request.name] = trouble.why
                    return None
                endpoint.trouble(trouble)
                failures += trouble.kind == "retry"
                if failures > self._section.asking.retries:
                    self.given_up[request.name] = trouble.why
                    return None
            except BaseException:
                self._stop.set()
                raise
            finally:
                self.budget.settle(aside, spent)
        return None

    def _answer(
        self,
        request: Request,
        endpoint: Endpoint,
        sent: int,
        answered: int,
        *,
        text: str | None = None,
        cost: float | None = None,
    ) -> Answer:
        if text is not None:
            cost = endpoint.cost(sent, answered)
        answer = Answer(request.key, text, endpoint.section.model, sent, answered, cost)
        self._answers.add(answer)
        return answer

    def _spent_so_far(self) -> str:
        spent = self.budget.spent
        priced = all(endpoint.priced for endpoint in self._section.endpoints)
        return f"{spent.tokens:,} tokens" + (f", cost {spent.cost:.4f}" if priced else "")
