"""The record of a run: one line a step in the state's metrics file, means over `log_steps` for those who follow.

The file is truncated to the checkpoint when a run is resumed, and everything up to there is told again, so that the
tracking run of the new attempt holds the whole curve.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from nvembed.core.artifacts import write_file
from nvembed.core.metrics import log_metrics

METRICS = "metrics.jsonl"
Record = Mapping[str, float]


class History:
    """Steps done so far. A record maps names to numbers and has `step`, which counts from 1.

    Args:
        path: the metrics file.
        log_steps: how many steps one told value is the mean of.
        upto: keep the records of so many steps; later ones are of work that was lost and will be done again.
    """

    def __init__(self, path: Path, log_steps: int, upto: int) -> None:
        self.path, self.log_steps = path, log_steps
        self.records: list[Record] = [record for record in read_history(path) if record["step"] <= upto]
        write_file(path, "".join(_line(record) for record in self.records))
        tell(self.records, log_steps)

    def add(self, record: Record) -> None:
        """Keep one step, and tell the mean of the last ones at every `log_steps`th."""
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_line(record))
        if record["step"] % self.log_steps == 0:
            tell(self.records[-self.log_steps :], self.log_steps)


def read_history(path: Path) -> list[Record]:
    """Records of a metrics file; none if it is missing. A line torn by a kill is passed over."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def tell(records: Iterable[Record], log_steps: int) -> None:
    """Hand the mean of every `log_steps` steps to whoever follows (`core.metrics`)."""
    window: list[Record] = []
    for record in records:
        window.append(record)
        if record["step"] % log_steps == 0:
            log_metrics({f"train/{name}": value for name, value in mean(window).items()}, int(record["step"]))
            window = []


def mean(records: Iterable[Record]) -> dict[str, float]:
    """Mean of each value over some records, without `step`."""
    rows = list(records)
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "step"}


def _line(record: Record) -> str:
    return json.dumps(dict(record)) + "\n"
