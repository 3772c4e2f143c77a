"""Many requests: which endpoint gets which, several at once, nothing twice, within the budget."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nvembed.core import lifeline
from nvembed.core.digests import digest_json, digest_text
from nvembed.core.errors import UserError
from nvembed.core.progress import Progress, note
from nvembed.synthesis.answers import Answer, Answers, Spent, State
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


def drawn(section: Synthesis, name: str) -> tuple[int, int]:
    """Seed and number of the endpoint of a request."""
    draw = int(digest_text(f"{section.seed}/{name}")[:16], 16)
    seed, share = draw % 2**31, (draw >> 31) / 2**33 * sum(endpoint.weight for endpoint in section.endpoints)
    chosen = 0
    for chosen, endpoint in enumerate(section.endpoints):  # noqa: B007 - the last one where rounding leaves a rest
        share -= endpoint.weight
        if share < 0:
            break
    return seed, chosen


def make_request(section: Synthesis, name: str, prompt: Prompt) -> Request:
    """A request; its `key` covers all that can change the answer."""
    seed, chosen = drawn(section, name)
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

        Where the process is to end (an interrupt, SIGTERM, the death of the run it belongs to), nothing more is sent,
        and what is under way is waited for and kept. If it is killed itself, that is lost and counts as spent.

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
        with lifeline.before_the_end(self._bring_home), lifeline.sigterm_raises():
            yield from self._ask_within(pool, waiting)

    def _ask_within(
        self, pool: ThreadPoolExecutor, waiting: Sequence[Request]
    ) -> Iterable[tuple[Request, Answer | None]]:
        try:
            futures = {pool.submit(self._ask_one, request): request for request in waiting}
            for future in as_completed(futures):
                yield futures[future], future.result()
            if self._stop.is_set():
                raise SystemExit("the run that this task belongs to is gone")
        except BaseException as error:
            self._stop.set()
            if isinstance(error, KeyboardInterrupt | SystemExit):
                note("waiting for the answers under way, which are paid for")
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # what is under way is paid for: it is waited for and kept

    def _bring_home(self) -> None:
        self._stop.set()
        self.budget.wait_settled(lifeline.LAST_MOMENT)

    def _ask_one(self, request: Request) -> Answer | None:
        endpoint = self.endpoints[request.endpoint]
        failures = 0
        while not self._stop.is_set():
            endpoint.wait(self._stop)
            aside = endpoint.most(request.prompt)
            if self._stop.is_set() or not self.budget.set_aside(aside):
                return None
            if self._stop.is_set():  # asked again: `_bring_home` waits for what it finds set aside, and for no more
                self.budget.settle(aside, Spent())
                return None
            spent = Spent()
            self._keep(request, endpoint, endpoint.likely(request.prompt), "under way")
            try:
                reply = endpoint.send(request.prompt, request.seed)
                cost = endpoint.cost(reply.sent, reply.answered)
                answer = Answer(request.key, reply.text, endpoint.section.model, reply.sent, reply.answered, cost)
                self._answers.add(answer)
                spent = answer.spent
                return answer
            except Trouble as trouble:
                spent = trouble.spent or Spent()
                self._keep(request, endpoint, spent, "ended" if trouble.spent else "took nothing")
                if trouble.kind == "refused":
                    self.given_up[request.name] = trouble.why
                    return None
                endpoint.trouble(trouble)
                failures += trouble.kind == "retry"
                if failures > self._section.asking.retries:
                    self.given_up[request.name] = trouble.why
                    return None
            except UserError:
                self._stop.set()
                self._keep(request, endpoint, Spent(), "took nothing")
                raise
            except BaseException:
                self._stop.set()
                raise
            finally:
                self.budget.settle(aside, spent)
        return None

    def _keep(self, request: Request, endpoint: Endpoint, spent: Spent, state: State) -> None:
        """A line without text: what a request that gave none takes or took."""
        self._answers.add(Answer(request.key, None, endpoint.section.model, spent.tokens, 0, spent.cost, state))

    def _spent_so_far(self) -> str:
        spent = self.budget.spent
        priced = all(endpoint.priced for endpoint in self._section.endpoints)
        return f"{spent.tokens:,} tokens" + (f", cost {spent.cost:.4f}" if priced else "")
