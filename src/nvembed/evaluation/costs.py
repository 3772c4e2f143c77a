"""What a run cost, stage by stage: hours, energy and money, from the usage that stands in its folders' manifests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvembed.recipe import Prices

STAGES = {
    "synthesize": "synthetic data",
    "prepare": "data preparation",
    "mine": "hard negatives",
    "train_stage1": "stage 1",
    "train_stage2": "stage 2",
    "evaluate": "evaluation",
}
"""The beginning of a task's name → the stage it belongs to, in the pipeline's order."""
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Cost:
    """A stage, or the whole. `seconds` are its tasks' own, added up; `kwh` and `money` are None where nothing says.

    `llm` is what endpoints asked for their answers, a part of `money`. `earlier` says that a task came from a cache.
    """

    stage: str
    tasks: int
    seconds: float
    cpu_hours: float
    gpu_hours: float
    kwh: float | None
    llm: float | None
    money: float | None
    earlier: bool


def costs(entries: Iterable[Mapping[str, Any]], prices: Prices | None = None, run: str = "") -> list[Cost]:
    """Costs by stage, and the total last; empty where no usage is known. `run` is the present pipeline run."""
    found = list(entries)
    names = [*STAGES.values(), "other"]
    stages = [_sum(name, rows, prices, run) for name in names if (rows := [e for e in found if _stage(e) == name])]
    return [*stages, _sum("total", found, prices, run)] if stages else []


def as_json(rows: Sequence[Cost], prices: Prices | None) -> dict[str, Any]:
    """What `costs.json` holds."""
    return {"prices": prices.model_dump(mode="json") if prices else None, "stages": [asdict(row) for row in rows]}


def cost_headline(rows: Sequence[Cost]) -> dict[str, float]:
    """The total, as headline numbers of the run."""
    if not rows:
        return {}
    total = rows[-1]
    known = {"cpu_hours": total.cpu_hours, "gpu_hours": total.gpu_hours, "kwh": total.kwh, "money": total.money}
    return {f"cost.{name}": round(value, 6) for name, value in known.items() if value is not None}


def cost_table(rows: Sequence[Cost], prices: Prices | None) -> tuple[list[str], list[list[str]]]:
    """Head and rows, for people; columns of which nothing is known are left out."""
    currency = prices.currency if prices else "as priced"
    columns = [
        ("time of its tasks", lambda row: clock(row.seconds)),
        ("CPU hours", lambda row: f"{row.cpu_hours:.3f}"),
        ("GPU hours", lambda row: f"{row.gpu_hours:.3f}" if row.gpu_hours else "0"),
        ("energy, kWh", lambda row: "–" if row.kwh is None else f"{row.kwh:.4f}"),
        (f"language models, {currency}", lambda row: "–" if row.llm is None else f"{row.llm:.2f}"),
        (f"money, {currency}", lambda row: "–" if row.money is None else f"{row.money:.2f}"),
    ]
    cells = [[show(row) for _, show in columns] for row in rows]
    kept = [n for n in range(len(columns)) if any(line[n] != "–" for line in cells)]
    head = ["stage", *(columns[n][0] for n in kept)]
    names = [row.stage + (" (from an earlier run)" if row.earlier and row.stage != "total" else "") for row in rows]
    return head, [[name, *(line[n] for n in kept)] for name, line in zip(names, cells, strict=True)]


def clock(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _stage(entry: Mapping[str, Any]) -> str:
    return next((stage for start, stage in STAGES.items() if str(entry.get("task")).startswith(start)), "other")


def _sum(name: str, entries: Sequence[Mapping[str, Any]], prices: Prices | None, run: str) -> Cost:
    def total(key: str) -> float:
        return sum(float(entry.get(key) or 0.0) for entry in entries)

    told = [entry for entry in entries if "cpu_joules" in entry or "gpu_joules" in entry]
    kwh = (total("cpu_joules") + total("gpu_joules")) / JOULES_PER_KWH if told else None
    llm = total("llm_cost") if any("llm_cost" in entry for entry in entries) else None
    cpu_hours, gpu_hours = total("cpu_seconds") / 3600, total("gpu_seconds") / 3600
    parts = [llm]
    if prices is not None:
        used = ((prices.cpu_hour, cpu_hours), (prices.gpu_hour, gpu_hours), (prices.kwh, kwh))
        parts += [price * hours for price, hours in used if price is not None and hours is not None]
    money = [part for part in parts if part is not None]
    return Cost(
        stage=name,
        tasks=len(entries),
        seconds=total("seconds"),
        cpu_hours=cpu_hours,
        gpu_hours=gpu_hours,
        kwh=kwh,
        llm=llm,
        money=sum(money) if money else None,
        earlier=bool(run) and any(entry.get("run") not in ("", run) for entry in entries),
    )
