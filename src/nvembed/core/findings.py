"""What a check found: a line, its state, and how to mend what is wrong. `nvembed doctor` tells them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "wrong", "absent"]


@dataclass(frozen=True)
class Finding:
    """One line: `absent` is what is not there and need not be; `wrong` makes the command's exit code 1."""

    check: str
    state: State
    says: str
    mend: str = ""


def guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The check's findings; a check that fails is itself a finding."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - a doctor who faints helps nobody
        said = " ".join(str(error).split())[:200]
        yield Finding(name, "wrong", f"could not be checked ({type(error).__name__}: {said})")
