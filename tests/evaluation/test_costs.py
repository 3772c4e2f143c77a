"""Hours, energy and money by stage."""

from __future__ import annotations

import pytest

from nvembed.evaluation.costs import as_json, clock, cost_headline, cost_table, costs
from nvembed.recipe import Prices

ENTRIES = [
    {"task": "synthesize_data", "run": "a", "seconds": 60.0, "cpu_seconds": 6.0, "llm_cost": 1.25},
    {"task": "mine_shard_0", "run": "b", "seconds": 10.0, "cpu_seconds": 36.0, "gpu_seconds": 0.0},
    {"task": "mine_hard_negatives", "run": "b", "seconds": 20.0, "cpu_seconds": 36.0, "gpu_seconds": 0.0},
    {
        "task": "train_stage1",
        "run": "b",
        "seconds": 3600.0,
        "cpu_seconds": 7200.0,
        "gpu_seconds": 8 * 3600.0,
        "cpu_joules": 0.9e6,
        "gpu_joules": 9.9e6,
    },
]


def test_every_stage_and_the_total_are_added_up_and_priced() -> None:
    rows = {row.stage: row for row in costs(ENTRIES, Prices(cpu_hour=0.05, gpu_hour=2.0, kwh=0.3), run="b")}

    assert list(rows) == ["synthetic data", "hard negatives", "stage 1", "total"]
    assert (rows["hard negatives"].tasks, rows["hard negatives"].cpu_hours) == (2, pytest.approx(0.02))
    assert rows["stage 1"].kwh == pytest.approx(3.0)
    assert rows["stage 1"].money == pytest.approx(2 * 0.05 + 8 * 2.0 + 3.0 * 0.3)
    assert rows["synthetic data"].earlier
    assert not rows["stage 1"].earlier
    assert rows["total"].money == pytest.approx(1.25 + (6 + 72 + 7200) / 3600 * 0.05 + 16.0 + 0.9)
    assert cost_headline(list(rows.values()))["cost.gpu_hours"] == pytest.approx(8.0)


def test_without_prices_there_is_no_money_and_what_nobody_measured_has_no_column() -> None:
    rows = costs([ENTRIES[1]])
    head, body = cost_table(rows, None)

    assert head == ["stage", "time of its tasks", "CPU hours", "GPU hours"]
    assert body == [["hard negatives", "10.0 s", "0.010", "0"], ["total", "10.0 s", "0.010", "0"]]
    assert as_json(rows, None)["stages"][0]["money"] is None
    assert costs([]) == []


@pytest.mark.parametrize(
    ("seconds", "told"), [(12.34, "12.3 s"), (245, "4 min 05 s"), (12000, "3 h 20 min"), (59.99, "60.0 s")]
)
def test_times_read_as_a_clock_shows_them(seconds: float, told: str) -> None:
    assert clock(seconds) == told
