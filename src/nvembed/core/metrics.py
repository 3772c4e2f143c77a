"""Numbers over steps, written where tracking can pick them up without the writer ever waiting for a server.

`log_metrics` appends one JSON line to the file named by `NVEMBED_METRICS`; the tracking room follows that file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

ENVIRONMENT = "NVEMBED_METRICS"


def log_metrics(values: Mapping[str, float], step: int, moment: float | None = None) -> None:
    """Append metrics of one step, of `moment` (seconds since 1970) or now. Does nothing where no one follows."""
    if path := os.environ.get(ENVIRONMENT):
        append_metrics(Path(path), values, step, moment)


def append_metrics(file: Path, values: Mapping[str, float], step: int, moment: float | None = None) -> None:
    """Append metrics of one step to `file`, in one write, so that writers do not tear each other's lines."""
    when = time.time() if moment is None else moment
    record = {"time": when, "step": step, "metrics": {name: float(value) for name, value in values.items()}}
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(record) + "\n").encode())
    finally:
        os.close(descriptor)
