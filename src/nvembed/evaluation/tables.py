"""The comparison's tables: scores and gains by task or by type, differences, queries won and lost, speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nvembed.evaluation.changes import Change
from nvembed.evaluation.figure import MOST_TASKS, ROWS, task_order
from nvembed.evaluation.results import Results
from nvembed.evaluation.verdict import METRIC_NAMES, interval, signed

Table = tuple[list[str], list[list[str]]]
"""Head and rows."""


def score_table(content: Mapping[str, Any]) -> Table:
    """Rows are models: each task's score and gain over the untrained backbone; of many tasks, the means by type."""
    tasks = task_order(dict(content))
    return _by_task(content, tasks) if len(tasks) <= MOST_TASKS else _by_type(content, tasks)


def task_table(content: Mapping[str, Any]) -> Table:
    """Rows are tasks of the primary split, grouped by type: every model's score, the challenger's gain on its rival."""
    split, verdict = content["primary"]["split"], content["verdict"]
    models = {name: table.get(split, {}) for name, table in content["scores"].items()}
    pair = (split, verdict["challenger"], verdict["beats"])
    gains = {d["task"]: d for d in content["differences"] if (d["split"], d["a"], d["b"]) == pair}
    rows = []
    for task in task_order(dict(content)):
        known = next(table[task] for table in models.values() if task in table)
        cells = [task, str(known["type"]), METRIC_NAMES.get(known["metric"], known["metric"])]
        cells += [_score(table.get(task)) for table in models.values()]
        rows.append([*cells, _gain(gains.get(task))])
    return ["task", "type", "metric", *(label(name) for name in models), f"gain over {label(pair[2]).lower()}"], rows


def difference_table(content: Mapping[str, Any]) -> Table:
    """Every paired difference, alone and among all tasks of its split."""
    rows = [
        [
            d["split"],
            d["task"],
            f"{label(d['a'])} − {label(d['b'])}",
            signed(d["mean"]),
            interval(d["low"], d["high"]),
            _chance(d["p"]),
            interval(d["low_all"], d["high_all"]),
            _chance(d["p_corrected"]),
        ]
        for d in sorted(
            [*content["mean_differences"], *content["differences"]],
            key=lambda d: (d["split"] != content["primary"]["split"], d["split"]),
        )
    ]
    sure = f"{content['confidence']:.0%}"
    alone, together = [f"{sure} interval", "p"], [f"{sure} for all tasks at once", "p, corrected"]
    return ["split", "task", "difference", "mean", *alone, *together], rows


def _chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def serving_table(models: Mapping[str, Results]) -> Table | None:
    """What each model costs to serve, on the machine that measured it; None if none was timed."""
    rows = [
        [
            label(name),
            *(f"{served[key]:.1f} ms" if key in served else "–" for key in ("query_ms_p50", "query_ms_p95")),
            _count(served.get("documents_per_second")),
            _count(served.get("parameters")),
            f"{served['size_mb']:,.0f} MB" if "size_mb" in served else "–",
        ]
        for name, model in models.items()
        if (served := model.speed.get("serving"))
    ]
    head = ["model", "a short query, median", "95th percentile", "passages of 100 words a second", "parameters"]
    return ([*head, "weights"], rows) if rows else None


def in_domain(models: Mapping[str, Results], split: str) -> list[str]:
    """Tasks of a split whose training split a model has seen, with the sources that hold it."""
    seen = {
        task: row.get("in_domain_by") or []
        for model in models.values()
        for (where, task), row in model.tasks.items()
        if where == split and row.get("in_domain")
    }
    return [f"{task} ({', '.join(map(str, by))})" if by else task for task, by in sorted(seen.items())]


def speed_table(models: Mapping[str, Results]) -> Table:
    """What measuring took."""
    rows = [
        [
            label(name),
            f"{m.speed.get('seconds', 0):.1f} s",
            _count(m.speed.get("texts")),
            _count(m.speed.get("texts_per_second")),
        ]
        for name, m in models.items()
    ]
    return ["model", "time in all", "texts encoded", "texts a second"], rows


def query_table(changes: Sequence[Change], *, lost: bool) -> Table:
    """Queries whose first relevant passage moved most."""
    rows = []
    for change in changes:
        moved = f"{_rank(change.before)} → {_rank(change.after)}"
        first = change.first_after if lost else change.first_before
        rows.append([moved, _short(change.query, 160), _short(change.passage, 200), _short(first, 200)])
    return ["rank", "query", "relevant passage", "stands first now" if lost else "stood first before"], rows


def label(name: str) -> str:
    """A candidate's name for people."""
    return ROWS.get(name, (name, ""))[0]


def _by_task(content: Mapping[str, Any], tasks: Sequence[str]) -> Table:
    split = content["primary"]["split"]
    metrics = {t: row["metric"] for model in content["scores"].values() for t, row in model.get(split, {}).items()}
    head = ["model"]
    for task in tasks:
        head += [f"{task} {METRIC_NAMES.get(metrics[task], metrics[task])}", "gain"]
    gains = {(d["a"], d["task"]): d for d in content["differences"] if (d["split"], d["b"]) == (split, "base")}
    gains |= {
        ("bm25", d["task"]): {"mean": -d["mean"], "low": -d["high"], "high": -d["low"]}
        for d in content["differences"]
        if (d["split"], d["a"], d["b"]) == (split, "base", "bm25")
    }
    rows = []
    for name, model in content["scores"].items():
        cells = [label(name)]
        for task in tasks:
            cells += [_score(model.get(split, {}).get(task)), _gain(gains.get((name, task)))]
        rows.append(cells)
    return head, rows


def _by_type(content: Mapping[str, Any], tasks: Sequence[str]) -> Table:
    """A mean of a type needs all its tasks: a model that lacks one (BM25 only searches) has none."""
    split = content["primary"]["split"]
    models = {name: table.get(split, {}) for name, table in content["scores"].items()}
    kinds: dict[str, list[str]] = {}
    for task in tasks:
        kinds.setdefault(next(str(t[task]["type"]) for t in models.values() if task in t), []).append(task)
    groups = {**{f"{kind} ({len(of)})": of for kind, of in kinds.items()}, f"mean of {len(tasks)} tasks": list(tasks)}
    rows = []
    for name, table in models.items():
        means = [
            f"{sum(table[task]['score'] for task in of) / len(of):.3f}" if all(task in table for task in of) else "–"
            for of in groups.values()
        ]
        rows.append([label(name), *means])
    return ["model", *groups], rows


def _score(row: Mapping[str, Any] | None) -> str:
    return f"{row['score']:.3f} ± {(row['high'] - row['low']) / 2:.3f}" if row else "–"


def _gain(row: Mapping[str, Any] | None) -> str:
    return f"{signed(row['mean'])} {interval(row['low'], row['high'])}" if row else "–"


def _count(value: Any) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _rank(rank: int | None) -> str:
    return str(rank) if rank else "beyond 100"


def _short(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
