"""The one exception that means "the user's input is wrong"."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave is wrong, and they can mend it.

    The message is one line that says what is wrong, where, and how to mend it. The command line prints it without a
    traceback and exits with 2; a pipeline task records it so that the runner can do the same.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
