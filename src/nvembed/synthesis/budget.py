"""Caps that hold: before a request is sent, the most it can take is set aside, and settled when it is known."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nvembed.synthesis.answers import Spent

if TYPE_CHECKING:
    from nvembed.recipe.synthesis import Caps


class Budget:
    """What was spent, what requests under way may take at most, and the caps. Safe for threads."""

    def __init__(self, caps: Caps, spent: Spent) -> None:
        self._caps, self._turn = caps, threading.Condition()
        self.spent, self._aside = spent, Spent()
        self.reached: str | None = None

    def count(self, spent: Spent) -> None:
        """Add what was spent already."""
        with self._turn:
            self.spent += spent

    def set_aside(self, most: Spent) -> bool:
        """Set aside what a request can take. False: a cap does not allow it, now or later; `reached` names the cap.

        Waits while requests under way may turn out to leave enough.
        """
        with self._turn:
            while True:
                name = self._exceeded(self.spent + self._aside + most)
                if name is None:
                    self._aside += most
                    return True
                if self.reached is None and self._aside.requests:
                    self._turn.wait()
                    continue
                self.reached = self.reached or name
                self._turn.notify_all()
                return False

    def settle(self, aside: Spent, actual: Spent) -> None:
        """Give back what was set aside and count what the request took."""
        with self._turn:
            self._aside -= aside
            self.spent += actual
            self._turn.notify_all()

    def wait_settled(self, timeout: float) -> bool:
        """Wait until nothing is under way, at most so many seconds; whether it is so."""
        with self._turn:
            return self._turn.wait_for(lambda: not self._aside.requests, timeout)

    def _exceeded(self, total: Spent) -> str | None:
        caps = self._caps
        if caps.max_requests is not None and total.requests > caps.max_requests:
            return f"synthesis.caps.max_requests = {caps.max_requests}"
        if caps.max_tokens is not None and total.tokens > caps.max_tokens:
            return f"synthesis.caps.max_tokens = {caps.max_tokens}"
        if caps.max_cost is not None and total.cost > caps.max_cost + 1e-12:
            return f"synthesis.caps.max_cost = {caps.max_cost:g}"
        return None
