"""The record of a run: one line a step in the state's metrics file, means over `log_steps` for those who follow.

The file is truncated to the checkpoint when a run is resumed, and everything up to there is told again, so that the
tracking run of the new attempt holds the whole curve. It is told with the time at which it happened: whoever has it
already takes it for the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from nvembed.core.artifacts import write_file
from nvembed.core.metrics import log_metrics

METRICS = "metrics.jsonl"
Record = Mapping[str, float]


class History:
    """Steps done so far. A record maps names to numbers and has `step`, which counts from 1, and `time`.

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
        record = {**record, "time": time.time()}
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_line(record))
        into_window = int(record["step"]) % self.log_steps or self.log_steps
        _tell_one(self.records[-into_window:], self.log_steps)


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
    """Hand what was watched to whoever follows (`core.metrics`)."""
    window: list[Record] = []
    for record in records:
        window.append(record)
        _tell_one(window, log_steps)
        if record["step"] % log_steps == 0:
            window = []


def _tell_one(window: list[Record], log_steps: int) -> None:
    """Tell of a window's last step: a check's results at once, the rest as the mean of a full window."""
    last = window[-1]
    told = {name: value for name, value in last.items() if _is_of_a_check(name)}
    if last["step"] % log_steps == 0:
        told |= {f"train/{name}": value for name, value in mean(window).items() if not _is_of_a_check(name)}
    if told:
        log_metrics(told, int(last["step"]), last.get("time"))


def mean(records: Iterable[Record]) -> dict[str, float]:
    """Mean of each value over those records that have it, without `step` and `time`."""
    rows = list(records)
    names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "time"))
    return {name: sum(found) / len(found) for name in names for found in [values(rows, name)]}


def values(records: Iterable[Record], name: str) -> list[float]:
    """A value of each record that has it: a step that was left out has no loss."""
    return [record[name] for record in records if name in record]


def _is_of_a_check(name: str) -> bool:
    """Results of a check on dev come with the step it follows, not with every step."""
    return name.startswith("dev/")


def _line(record: Record) -> str:
    return json.dumps(dict(record)) + "\n"
