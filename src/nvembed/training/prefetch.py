"""The next step's batch made ready on another thread while this step computes, so that data costs no time.

What is made depends on the step's number alone, so the thread changes nothing but when it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """`get(step)` gives `make(step)` and starts to make the one behind it, if that is below `steps`."""

    def __init__(self, make: Callable[[int], T], steps: int) -> None:
        self._make, self._steps = make, steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nvembed-batches")
        self._next: tuple[int, Future[T]] | None = None

    def get(self, step: int) -> T:
        """Any step, at any time; an error of `make` is raised by the `get` of its step."""
        ahead = self._next[1] if self._next and self._next[0] == step else None
        made = ahead.result() if ahead is not None else self._thread.submit(self._make, step).result()
        following = step + 1
        self._next = (following, self._thread.submit(self._make, following)) if following < self._steps else None
        return made
