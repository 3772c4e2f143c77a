"""What is still to be told to MLflow, kept on disk until it was told.

A spool folder holds `metrics.jsonl` (appended by the task and its workers, see `core.metrics`), `sent` (how many bytes
of it have arrived) and `task.json` (`Ledger`: whose metrics they are, what else is to be logged, how the task ended).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import write_file
from nvembed.core.digests import digest_text
from nvembed.core.metrics import append_metrics
from nvembed.core.state import state_folder, state_root

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)
KIND = "spool"
_BATCH = 1000  # MLflow's limit of metrics a call


@dataclass
class Ledger:
    """A task's side of the story. `child` is its MLflow run once there is one; `todo` what is left to log."""

    run_id: str
    task: str
    child: str | None = None
    owned: bool = True
    params: dict[str, str] = field(default_factory=dict)
    todo: list[dict[str, Any]] = field(default_factory=list)
    status: str | None = None
    error: str | None = None
    ended: float | None = None
    closed: bool = False


class Spool:
    """One task's spool folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = folder / "metrics.jsonl"
        self._sent = folder / "sent"

    @classmethod
    def of(cls, run_id: str, task: str) -> Spool:
        """The spool of a task of a pipeline run; a retry gets the same one."""
        return cls(state_folder(KIND, digest_text(f"{run_id}/{task}")))

    @classmethod
    def all_of(cls, run_id: str | None) -> Iterator[tuple[Spool, Ledger]]:
        """Every spool of a pipeline run (None: of any) that this machine's state holds."""
        for file in sorted((state_root() / KIND).glob("*/task.json")):
            spool = cls(file.parent)
            ledger = spool.read_ledger()
            if ledger is not None and run_id in (None, ledger.run_id):
                yield spool, ledger

    def read_ledger(self) -> Ledger | None:
        try:
            return Ledger(**json.loads((self.folder / "task.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, TypeError, ValueError):
            return None

    def reopen(self, run_id: str, task: str, params: dict[str, str]) -> Ledger:
        """The ledger for a task that starts now: an earlier try's unsent rest, but not its end."""
        before = self.read_ledger()
        ledger = Ledger(run_id, task, params=params)
        if before is not None and before.run_id == run_id and before.task == task:
            ledger.todo = before.todo
        self.write_ledger(ledger)
        return ledger

    def write_ledger(self, ledger: Ledger) -> None:
        write_file(self.folder / "task.json", json.dumps(asdict(ledger), ensure_ascii=False))

    def append(self, values: Mapping[str, float], step: int) -> None:
        """Add metrics of one step."""
        append_metrics(self.metrics, values, step)

    def offset(self) -> int:
        """Bytes of `metrics.jsonl` that have arrived."""
        try:
            return int(self._sent.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return 0

    def send(self, mlflow: MlflowClient, child: str) -> int:
        """Send every complete line not sent yet, in batches; the number of metrics sent. Raises what MLflow raises."""
        total, offset = 0, self.offset()
        while True:
            batch, end = self._read(offset)
            if end == offset:
                return total
            if batch:
                mlflow.log_batch(child, metrics=batch, synchronous=True)
            write_file(self._sent, str(end))
            total, offset = total + len(batch), end

    def _read(self, offset: int) -> tuple[list[Metric], int]:
        """Up to `_BATCH` metrics from `offset` on, and the offset behind them. Half a line at the end is left."""
        from mlflow.entities import Metric

        batch: list[Metric] = []
        if not self.metrics.exists():
            return batch, offset
        with self.metrics.open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                values, moment, step = _parse(line)
                if batch and len(batch) + len(values) > _BATCH:
                    break
                batch += [Metric(name, value, moment, step) for name, value in list(values.items())[:_BATCH]]
                offset += len(line)
        return batch, offset


def _parse(line: bytes) -> tuple[dict[str, float], int, int]:
    try:
        record = json.loads(line)
        values = {metric_name(name): float(value) for name, value in record["metrics"].items()}
        moment, step = int(record["time"] * 1000), int(record["step"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("a line of metrics cannot be read and is left out: %s", error)
        return {}, 0, 0
    return {name: value for name, value in values.items() if math.isfinite(value)}, moment, step


def metric_name(name: str) -> str:
    """MLflow takes letters, digits, and `_-. :/`; `ndcg@10` becomes `ndcg_at_10`."""
    plain = name.replace("@", "_at_")
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "_-. :/") else "_" for letter in plain
    )[:250]
