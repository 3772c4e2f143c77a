"""What parsing a source gave, kept in the state folder by the content of what was parsed.

The door of a run, its first task and `prepare_data` read the same source one after the other; parsing takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nvembed.core.artifacts import write_file
from nvembed.core.digests import code_digest, digest_file, digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import TASK
from nvembed.core.state import state_folder, state_root

_KIND, _FILE = "parsed", "parsed.json"


def content_key(root: Path, files: Iterable[Path]) -> str:
    """Names what parsing `files` gives: their names below `root` and contents, our code, and the Python that parses."""
    contents = [[file.relative_to(root).as_posix(), _digest(file)] for file in files]
    return digest_json([contents, code_digest(), sys.version])


def _digest(file: Path) -> str:
    try:
        return digest_file(file)
    except OSError:  # parsing passes over it too
        return "cannot be read"


def load_parsed(key: str) -> Any:
    """The JSON value kept under `key`; None if there is none or it was damaged. Writes nothing."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads((state_root() / _KIND / key[:24] / _FILE).read_text(encoding="utf-8"))
        if kept["key"] == key and kept["digest"] == digest_json(kept["value"]):
            return kept["value"]
    return None


def keep_parsed(key: str, value: Any) -> None:
    """Keep a JSON value under `key`, if a task is under way: checks at the door leave nothing behind."""
    if os.environ.get(TASK):
        with contextlib.suppress(OSError, UserError):  # it saves seconds; a place that cannot be written costs no more
            text = json.dumps({"key": key, "digest": digest_json(value), "value": value}, ensure_ascii=False)
            write_file(state_folder(_KIND, key) / _FILE, text)
