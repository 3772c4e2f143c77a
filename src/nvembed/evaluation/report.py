"""The comparison in words: `table.md`, `report.md` and a `report.html` that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import write_file
from nvembed.data.document import Document, markdown_table
from nvembed.data.evalsets import SYNTHETIC
from nvembed.evaluation.changes import Changes, query_changes
from nvembed.evaluation.costs import Cost, cost_table
from nvembed.evaluation.figure import MOST_TASKS, task_order
from nvembed.evaluation.published import published_table
from nvembed.evaluation.results import Results
from nvembed.evaluation.tables import (
    difference_table,
    in_domain,
    label,
    query_table,
    score_table,
    serving_table,
    speed_table,
    task_table,
)
from nvembed.evaluation.verdict import NAMES, gate_difference, interval, sentence, signed

if TYPE_CHECKING:
    from nvembed.recipe import Prices


def write_report(
    content: Mapping[str, Any],
    models: Mapping[str, Results],
    folder: Path,
    *,
    costs: Sequence[Cost] = (),
    prices: Prices | None = None,
) -> None:
    """Write the three pages beside `scores.png`, which must be there already."""
    verdict = content["verdict"]
    page = Document("Comparison")
    words = sentence(verdict) if content["challenger"] else "No trained model to judge."
    page.verdict(words, passed=verdict["passed"])
    if verdict["paragraph"] not in verdict["reasons"]:
        page.paragraph(verdict["paragraph"])
    page.points(verdict["reasons"])
    page.picture(folder / "scores.png", "Scores and gains with intervals")
    page.table(*score_table(content), firm=True)
    if len(task_order(dict(content))) > MOST_TASKS:
        page.heading("Task by task")
        page.table(*task_table(content), firm=True)
    _failed(page, models)
    for note in _notes(content, models):
        page.note(note)
    _queries(page, content, query_changes(content, models))
    _published(page, content)
    _costs(page, costs, prices)
    page.heading("All paired differences")
    page.table(*difference_table(content), firm=True)
    if served := serving_table(models):
        page.heading("To serve")
        page.table(*served, firm=True)
    page.heading("Measuring")
    page.table(*speed_table(models), firm=True)
    page.write(folder)
    write_file(folder / "table.md", markdown_table(*score_table(content)))


def _failed(page: Document, models: Mapping[str, Results]) -> None:
    rows = [
        [label(name), f"{task} ({split})", error]
        for name, model in models.items()
        for (split, task), error in model.errors.items()
    ]
    if rows:
        page.heading("Tasks that failed")
        page.table(["model", "task", "error"], rows, foreign=True)


def synthetic_note(content: Mapping[str, Any]) -> str:
    """What stands beside a comparison's scores if some of its tasks are synthetic; empty if none is."""
    tasks = {task for model in content["scores"].values() for split in model.values() for task in split}
    named = sorted(task for task in tasks if task.startswith(f"{SYNTHETIC}-"))
    if not named:
        return ""
    return (
        f"{', '.join(named)}: synthetic. Its queries were written by language models, not by users; users' queries may "
        "be harder, or of another kind."
    )


def _queries(page: Document, content: Mapping[str, Any], changes: Changes | None) -> None:
    if changes is None:
        return
    page.heading("Queries won and lost")
    page.paragraph(_query_words(changes, content["verdict"]))
    for title, rows, lost in (("Won", changes.won, False), ("Lost", changes.lost, True)):
        if rows:
            page.heading(title, 3)
            page.table(*query_table(rows, lost=lost), foreign=True)


def _published(page: Document, content: Mapping[str, Any]) -> None:
    table = published_table(content)
    if table is None:
        return
    page.heading("Beside the published models")
    page.table(*table, firm=True)
    page.note(
        "Main scores in per cent. The published figures are the authors', of their own run on the data of the time; "
        "where mteb has changed a task since, the rows do not compare."
    )


def _costs(page: Document, costs: Sequence[Cost], prices: Prices | None) -> None:
    if not costs:
        return
    page.heading("What it cost")
    page.table(*cost_table(costs, prices), firm=True)
    page.note(
        "CPU hours are processor time used, GPU hours are the time GPUs were held. What came from a cache counts with "
        "what it took when it was made; a task that was killed and went on counts from its last start."
    )
    if all(row.kwh is None for row in costs):
        page.note("This machine does not tell its energy: neither RAPL nor NVML can be read.")
    if prices is None:
        page.note("For money, give registration.prices in the recipe.")


def _notes(content: Mapping[str, Any], models: Mapping[str, Results]) -> list[str]:
    samples, split = content["bootstrap_samples"], content["primary"]["split"]
    kept = [f"{t}: {row['variant']}" for t, row in content["scores"].get("base", {}).get(split, {}).items()]
    notes = [
        f"± and [ ] are {content['confidence']:.0%} percentile bootstrap intervals ({samples:,} resamples). Gains are "
        "paired: both models are scored on the same resampled queries, test texts, pairs or documents, and what is no "
        "mean over them (v-measure, average precision, rank correlation, F1) is computed anew; v-measure's and F1's "
        "spread is set to the jackknife's standard error. Where many tasks are looked over, what holds of all at once "
        "(maxT over the same draws) stands beside what holds of each alone.",
    ]
    if seen := in_domain(models, split):
        notes.append(f"In-domain, since the model has trained on their training split: {', '.join(seen)}.")
    notes += _too_small(content)
    if said := synthetic_note(content):
        notes.append(said)
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
