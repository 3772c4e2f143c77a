"""CPU, memory, disk and GPU use while a task runs, as further lines of its metrics spool.

MLflow's own monitor calls the server from its sampling thread and gives up at the first failed call; these samples
go the way of all metrics and so survive a dead server. Names are those that MLflow's page shows under system metrics.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from nvembed.tracking.gpus import MEBIBYTE, VisibleGpus

logger = logging.getLogger(__name__)


class Sampler:
    """Calls `write(values, step)` from a thread of its own, at the start, every `every` seconds, at the end."""

    def __init__(self, write: Callable[[Mapping[str, float], int], None], every: float = 5.0) -> None:
        self._write, self._every = write, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nvembed-system-metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            import psutil
        except ImportError:
            logger.info("psutil is not installed: no system metrics")
            return
        psutil.cpu_percent()  # the first call only sets the mark that the next one measures from
        gpus = VisibleGpus()
        step, stopping = 0, False
        while not stopping:
            stopping = self._stop.wait(self._every if step else 0.5)
            try:
                self._write(sample(psutil, gpus), step)
            except OSError as error:
                logger.debug("system metrics not written: %s", error)
            step += 1


def sample(psutil: Any, gpus: VisibleGpus | None = None) -> dict[str, float]:
    """One reading: per cent and mebibytes; `task_memory` is this process and all it started."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(".")
    values = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / MEBIBYTE,
        "system/system_memory_usage_percentage": memory.percent,
        "system/disk_usage_percentage": disk.percent,
        "system/disk_available_megabytes": disk.free / MEBIBYTE,
        "system/task_memory_megabytes": _tree_memory(psutil) / MEBIBYTE,
    }
    return values | (gpus.sample() if gpus else {})


def _tree_memory(psutil: Any) -> int:
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total
