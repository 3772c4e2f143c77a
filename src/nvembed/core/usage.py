"""What a task uses: time, processor time, GPU time, and energy where the machine tells it.

A task's usage stands in the manifest of what it made, so that a result served from a cache still says what it took.
Energy is the whole machine's while the task ran: processors by RAPL (Linux powercap), GPUs by NVML. Neither can be
read everywhere; what cannot is left out, never guessed.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from nvembed.core.artifacts import MANIFEST, read_manifest, write_file

POWERCAP = Path("/sys/class/powercap")
_LOOK_EVERY = 60.0  # seconds; a RAPL counter of 262 kJ turns over after 9 minutes at 500 W


class Energy:
    """Joules since the start of counters that turn over (microjoules, `max_energy_range_uj`)."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._counters = [folder for folder in sorted(root.glob("intel-rapl:*")) if folder.name.count(":") == 1]
        self._last: dict[Path, int] = {}
        self._joules, self._lock, self._stop = 0.0, threading.Lock(), threading.Event()
        self.readable = bool(self._counters) and all(self._read(folder) is not None for folder in self._counters)
        if self.readable:
            self.look()
            threading.Thread(target=self._follow, name="nvembed-energy", daemon=True).start()

    def look(self) -> float:
        """Joules until now."""
        with self._lock:
            for folder in self._counters:
                now, before = self._read(folder), self._last.get(folder)
                if now is None:
                    continue
                if before is not None:
                    turned = self._number(folder / "max_energy_range_uj") or 0 if now < before else 0
                    self._joules += max(now - before + turned, 0) / 1e6
                self._last[folder] = now
            return self._joules

    def close(self) -> None:
        """End the thread that follows the counters."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.wait(_LOOK_EVERY):
            self.look()

    def _read(self, folder: Path) -> int | None:
        return self._number(folder / "energy_uj")

    @staticmethod
    def _number(file: Path) -> int | None:
        try:
            return int(file.read_text())
        except (OSError, ValueError):  # for root alone, on most machines
            return None


class Gpus(Protocol):
    """The GPUs that a task holds, as `tracking.gpus` reads them."""

    count: int

    def joules(self) -> float | None:
        """What they have used since some moment in the past; None where they do not say."""
        ...


class Meter:
    """Counts from its making on, until its `with` block ends."""

    def __init__(self, task: str, run: str = "", *, gpus: Gpus | None = None, root: Path = POWERCAP) -> None:
        self._task, self._run = task, run
        self._begun, self._started = datetime.now(UTC).isoformat(timespec="milliseconds"), time.monotonic()
        self._processor = _processor_seconds()
        self._energy = Energy(root)
        self._gpus, self._gpu_joules = gpus, gpus.joules() if gpus else None

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *error: object) -> None:
        self._energy.close()

    def read(self) -> dict[str, Any]:
        """One entry: `task`, `run`, `begun`, `seconds`, `cpu_seconds`, `gpus`, `gpu_seconds`, joules where known.

        `cpu_seconds` count this process and every child that has ended; `gpu_seconds` every GPU for as long as the task
        held it, busy or not.
        """
        seconds = time.monotonic() - self._started
        count = self._gpus.count if self._gpus else 0
        entry: dict[str, Any] = {
            "task": self._task,
            "run": self._run,
            "begun": self._begun,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(_processor_seconds() - self._processor, 2),
            "gpus": count,
            "gpu_seconds": round(seconds * count, 2),
        }
        if self._energy.readable:
            entry["cpu_joules"] = round(self._energy.look(), 1)
        after = self._gpus.joules() if self._gpus else None
        if after is not None and self._gpu_joules is not None:
            entry["gpu_joules"] = round(after - self._gpu_joules, 1)
        return entry


def add_usage(folder: Path | str, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write usage into a folder's manifest, after what stands there. Its content digest does not cover it."""
    manifest = read_manifest(folder)
    known = {identity(entry) for entry in manifest.usage}
    new = [dict(entry) for entry in entries if identity(entry) not in known]
    changed = replace(manifest, usage=[*manifest.usage, *new])
    write_file(Path(folder) / MANIFEST, json.dumps(asdict(changed), indent=2, sort_keys=True) + "\n")


def usage_of(folders: Iterable[Path | str]) -> list[dict[str, Any]]:
    """Usage entries of folders, each task's once, in the order in which they began."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for folder in folders:
        if (Path(folder) / MANIFEST).is_file():
            for entry in read_manifest(folder).usage:
                entries[identity(entry)] = dict(entry)
    return sorted(entries.values(), key=lambda entry: (str(entry.get("begun")), str(entry.get("task"))))


def identity(entry: Mapping[str, Any]) -> tuple[str, str]:
    """What tells one task's usage from another's, when it came by two ways."""
    return str(entry.get("task")), str(entry.get("begun"))


def _processor_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
