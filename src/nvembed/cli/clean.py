"""What may go of a run folder's files: runs, cache entries, logs and state that the newest runs do not need.

Needed is what the newest runs put out, wherever it lies: a task served from the cache lives in an older run's folder.
State is needed if a task used it since the oldest of those runs began. Never removed: answers that were paid for,
metrics that MLflow has not got yet, counts and locks, and anything that a living process holds.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvembed.core.state import hold

REMADE = (
    "backbones", "champion", "embeddings", "evaluation", "evaluation-joined", "examples", "gate", "mix", "models",
    "parsed", "references", "registry-evaluation", "registry-model", "searches", "spool", "tmp", "training",
)  # fmt: skip
"""Kinds of state that are made again when they are missing. Any other kind is left alone."""
_STAMP = "%Y%m%d-%H%M%S"


@dataclass(frozen=True)
class Removal:
    """One thing that may go."""

    what: str
    path: Path
    size: int

    def carry_out(self) -> bool:
        """Remove it; False if a living process holds it."""
        if not self.path.is_dir():
            self.path.unlink(missing_ok=True)
            return True
        if (self.path / ".lock").exists():
            try:
                with hold(self.path, timeout=0):
                    shutil.rmtree(self.path, ignore_errors=True)
                return True
            except TimeoutError:
                return False
        shutil.rmtree(self.path, ignore_errors=True)
        return True


def removals(
    output: Path, state: Path, keep: int, now: float | None = None, days: float | None = None
) -> list[Removal]:
    """What may go, as of now. Looks only; changes nothing.

    Args:
        output: a folder that `nvembed run` wrote to, or one without runs (a cluster's).
        state: its state folder.
        keep: so many of the newest runs stay whole.
        days: state unused for so long goes; None: what was used last before the oldest run that stays.
    """
    results = sorted((output / "logs").glob("*.result.json"))
    newest = results[-keep:] if keep else []
    needed = {path for file in newest for path in _paths(_read(file))}
    found = [*_old_runs(output / "runs", needed, keep)]
    gone = [removal.path for removal in found]
    found += _dangling(output / "cache", gone)
    found += _old_logs(output / "logs", results[: len(results) - len(newest)])
    before = _cutoff(newest, now or time.time(), days)
    if before is not None:
        found += _unused_state(state, before)
    return found


def _old_runs(runs: Path, needed: set[Path], keep: int) -> Iterator[Removal]:
    folders = sorted((folder for folder in _folders(runs)), key=lambda folder: folder.stat().st_mtime)
    for run in folders[: max(0, len(folders) - keep)]:
        tasks = _folders(run)
        old = [task for task in tasks if not any(path.is_relative_to(task) for path in needed)]
        if len(old) == len(tasks):
            yield Removal("run", run, _size(run))
        else:
            yield from (Removal("task of a run", task, _size(task)) for task in old)


def _dangling(cache: Path, gone: Sequence[Path]) -> Iterator[Removal]:
    """Cache entries that point into what goes."""
    for file in sorted(cache.glob("*.json")):
        if any(path.is_relative_to(folder) for path in _paths(_read(file)) for folder in gone):
            yield Removal("cache entry", file, file.stat().st_size)


def _old_logs(logs: Path, results: Sequence[Path]) -> Iterator[Removal]:
    for result in results:
        name = result.name.removesuffix(".result.json")
        for file in sorted(logs.glob(f"{name}.*")):
            yield Removal("log", file, file.stat().st_size)


def _unused_state(state: Path, before: float) -> Iterator[Removal]:
    for kind in REMADE:
        for folder in _folders(state / kind):
            if _last_use(folder) < before and not (kind == "spool" and _unsent(folder)):
                yield Removal(f"state: {kind}", folder, _size(folder))


def _unsent(spool: Path) -> bool:
    """Whether MLflow has not got everything; what cannot be read stays."""
    ledger = _read(spool / "task.json")
    return not (isinstance(ledger, dict) and ledger.get("closed"))


def _cutoff(newest: Sequence[Path], now: float, days: float | None) -> float | None:
    """The moment before which unused state goes; None where nothing tells."""
    if days is not None:
        return now - 86400 * days
    if not newest:
        return None
    try:
        return time.mktime(time.strptime(newest[0].name[:15], _STAMP))
    except ValueError:
        return None


def _last_use(folder: Path) -> float:
    return max(entry.stat().st_mtime for entry in [folder, *(p for p in folder.rglob("*") if not p.is_symlink())])


def _paths(value: Any) -> Iterator[Path]:
    """Every absolute path among a JSON value's texts."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, str) and value.startswith("/") and "\n" not in value and len(value) < 4096:
        yield Path(value)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _size(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file() and not entry.is_symlink())
