"""The one exception that means "the user's input is wrong", and how a full disk is known."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Something the user gave is wrong, and they can mend it.

    The message is one line that says what is wrong, where, and how to mend it. The command line prints it without a
    traceback and exits with 2; a pipeline task records it so that the runner can do the same.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def disk_is_full(error: BaseException) -> bool:
    """Whether an exception says that no more can be written: disk full, quota or limit of a file's size reached.

    safetensors tells of it in words only.
    """
    return getattr(error, "errno", None) in _FULL or any(f"(os error {number})" in str(error) for number in _FULL)


@contextlib.contextmanager
def tell_full_disk(where: Path) -> Iterator[None]:
    """Within this, a full disk is a UserError that names `where`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if disk_is_full(error):
            raise UserError(f"{where}: the disk is full; free some space and start again") from error
        raise
