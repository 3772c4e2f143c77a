"""The comparison in words: `table.md`, `report.md` and a `report.html` that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nvembed.core.artifacts import write_file
from nvembed.evaluation.changes import Change, Changes, query_changes
from nvembed.evaluation.figure import ROWS, task_order
from nvembed.evaluation.results import Results
from nvembed.evaluation.verdict import METRIC_NAMES, NAMES, gate_difference, interval, sentence, signed

Table = tuple[list[str], list[list[str]]]


def write_report(content: Mapping[str, Any], models: Mapping[str, Results], folder: Path) -> None:
    """Write the three pages beside `scores.png`, which must be there already."""
    changes = query_changes(content, models)
    write_file(folder / "table.md", markdown_table(score_table(content)))
    write_file(folder / "report.md", _markdown(content, models, changes))
    write_file(folder / "report.html", _html(content, models, changes, folder / "scores.png"))


def score_table(content: Mapping[str, Any]) -> Table:
    """Rows are models; a score and a gain over the untrained backbone for each task of the primary split."""
    split, tasks = content["primary"]["split"], task_order(dict(content))
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
        cells = [ROWS.get(name, (name, ""))[0]]
        for task in tasks:
            row, gain = model.get(split, {}).get(task), gains.get((name, task))
            cells.append(f"{row['score']:.3f} ± {(row['high'] - row['low']) / 2:.3f}" if row else "–")
            cells.append(f"{signed(gain['mean'])} {interval(gain['low'], gain['high'])}" if gain else "–")
        rows.append(cells)
    return head, rows


def difference_table(content: Mapping[str, Any]) -> Table:
    """Every paired difference."""
    rows = [
        [
            d["split"],
            d["task"],
            f"{_label(d['a'])} − {_label(d['b'])}",
            signed(d["mean"]),
            interval(d["low"], d["high"]),
        ]
        for d in sorted(content["differences"], key=lambda d: (d["split"] != content["primary"]["split"], d["split"]))
    ]
    return ["split", "task", "difference", "mean", f"{content['confidence']:.0%} interval"], rows


def speed_table(models: Mapping[str, Results]) -> Table:
    """What measuring took."""
    rows = [
        [
            _label(name),
            f"{m.speed.get('seconds', 0):.1f} s",
            _count(m.speed.get("texts")),
            _count(m.speed.get("texts_per_second")),
        ]
        for name, m in models.items()
    ]
    return ["model", "time in all", "texts encoded", "texts a second"], rows


def markdown_table(table: Table) -> str:
    """A table in Markdown."""
    head, rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _label(name: str) -> str:
    return ROWS.get(name, (name, ""))[0]


def _count(value: Any) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _verdict_words(content: Mapping[str, Any]) -> str:
    return sentence(content["verdict"]) if content["challenger"] else "No trained model to judge."


def _notes(content: Mapping[str, Any], models: Mapping[str, Results]) -> list[str]:
    samples, split = content["bootstrap_samples"], content["primary"]["split"]
    kept = [f"{t}: {row['variant']}" for t, row in content["scores"].get("base", {}).get(split, {}).items()]
    notes = [
        f"± and [ ] are {content['confidence']:.0%} percentile bootstrap intervals ({samples:,} resamples). Gains are "
        "paired: both models are scored on the same resampled queries (retrieval), test items (classification) or "
        "documents (clustering: v-measure computed anew, spread set to the jackknife's standard error).",
    ]
    notes += _too_small(content)
    if kept:
        notes.append(
            "The untrained backbone is measured as its own card says (card) and under this project's instruction "
            f"template (template); each task keeps the better one. Kept here: {', '.join(sorted(kept))}."
        )
    if "bm25" in models:
        notes.append("BM25 searches the same corpus: English stop words, Snowball stems, k1 = 1.5, b = 0.75.")
    notes.append(f"Eval sets: `{content['eval_sets'][:16]}` (content digest).")
    return notes


def _too_small(content: Mapping[str, Any]) -> list[str]:
    """A sentence if the gate's interval holds the required gain: then neither yes nor no is shown."""
    gap, needed = gate_difference(content), content["verdict"]["gate"]["min_gain"]
    if gap is None or not gap["low"] <= needed < gap["high"]:
        return []
    measured = content["scores"][gap["a"]][gap["split"]]
    items = sum(measured[task]["items"] for task in content["primary"]["tasks"] if task in measured)
    return [
        f"The {gap['split']} set is too small to decide: with {items:,} items of {gap['task']} the interval "
        f"{interval(gap['low'], gap['high'])} holds the required gain of {signed(needed)}. Four times as many items "
        "would halve it."
    ]


def _query_words(changes: Changes, verdict: Mapping[str, Any]) -> str:
    return (
        f"{changes.task}, {NAMES.get(verdict['challenger'], verdict['challenger'])} against "
        f"{NAMES.get(verdict['beats'], verdict['beats'])}: the first relevant passage stands higher for "
        f"{changes.better} queries, lower for {changes.worse}, where it was for {changes.equal}."
    )


def _rank(rank: int | None) -> str:
    return str(rank) if rank else "beyond 100"


def _query_table(changes: Sequence[Change], *, lost: bool) -> Table:
    rows = []
    for change in changes:
        cells = [
            f"{_rank(change.before)} → {_rank(change.after)}",
            _short(change.query, 160),
            _short(change.passage, 200),
        ]
        rows.append([*cells, _short(change.first_after if lost else change.first_before, 200)])
    return ["rank", "query", "relevant passage", "stands first now" if lost else "stood first before"], rows


def _short(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _markdown(content: Mapping[str, Any], models: Mapping[str, Results], changes: Changes | None) -> str:
    parts = ["# Comparison", f"**{_verdict_words(content)}**"]
    parts.append("\n".join(f"- {reason}" for reason in content["verdict"]["reasons"]))
    parts += ["![Scores and gains with intervals](scores.png)", markdown_table(score_table(content)).rstrip()]
    parts += _notes(content, models)
    if changes:
        parts += ["## Queries won and lost", _query_words(changes, content["verdict"])]
        for title, rows, lost in (("Won", changes.won, False), ("Lost", changes.lost, True)):
            if rows:
                parts += [f"### {title}", markdown_table(_escaped(_query_table(rows, lost=lost))).rstrip()]
    parts += ["## All paired differences", markdown_table(difference_table(content)).rstrip()]
    parts += ["## Time", markdown_table(speed_table(models)).rstrip()]
    return "\n\n".join(parts) + "\n"


def _escaped(table: Table) -> Table:
    """Texts of a corpus are not ours: what Markdown would read as markup is shown as it stands."""
    marks = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>#~"})
    return table[0], [[cell.translate(marks) for cell in row] for row in table[1]]


def _html(content: Mapping[str, Any], models: Mapping[str, Results], changes: Changes | None, picture: Path) -> str:
    data = base64.b64encode(picture.read_bytes()).decode()
    passed = "passed" if content["verdict"]["passed"] else "failed"
    body = [
        "<h1>Comparison</h1>",
        f'<p class="verdict {passed}">{html.escape(_verdict_words(content))}</p>',
        "<ul>" + "".join(f"<li>{html.escape(reason)}</li>" for reason in content["verdict"]["reasons"]) + "</ul>",
        f'<img alt="Scores and gains with intervals" src="data:image/png;base64,{data}">',
        _html_table(score_table(content), "numbers"),
        *[f'<p class="note">{html.escape(text).replace("`", "")}</p>' for text in _notes(content, models)],
    ]
    if changes:
        body += ["<h2>Queries won and lost</h2>", f"<p>{html.escape(_query_words(changes, content['verdict']))}</p>"]
        for title, rows, lost in (("Won", changes.won, False), ("Lost", changes.lost, True)):
            if rows:
                body += [f"<h3>{title}</h3>", _html_table(_query_table(rows, lost=lost), "queries")]
    body += ["<h2>All paired differences</h2>", _html_table(difference_table(content), "numbers")]
    body += ["<h2>Time</h2>", _html_table(speed_table(models), "numbers")]
    return _PAGE.replace("BODY", "\n".join(body))


def _html_table(table: Table, kind: str) -> str:
    head, rows = table
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison</title>
<style>
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #222; background: #fff;
  max-width: 68rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
.verdict { font-size: 1.15rem; font-weight: 600; padding: .6rem .9rem; border-left: 4px solid; background: #f6f7f8; }
.passed { border-color: #0072b2; } .failed { border-color: #d55e00; }
img { max-width: 100%; height: auto; margin: .6rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; margin: .6rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .32rem .6rem .32rem 0; border-bottom: 1px solid #e4e4e4; }
.numbers td { white-space: nowrap; font-variant-numeric: tabular-nums; }
.queries td:first-child { white-space: nowrap; }
.note { color: #555; font-size: .88rem; margin: .4rem 0; }
</style>
</head>
<body>
BODY
</body>
</html>
"""
