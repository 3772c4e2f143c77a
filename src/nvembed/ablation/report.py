"""The ablation folder: `results.json`, a forest plot, and a report that says what came out, whichever way it points."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from nvembed.ablation.figure import draw_forest
from nvembed.core.artifacts import output_folder, write_file, write_manifest
from nvembed.data.document import Document
from nvembed.evaluation.verdict import METRIC_NAMES, interval, signed

if TYPE_CHECKING:
    from nvembed.ablation.plan import Plan

RESULTS, FIGURE = "results.json", "ablation.png"


def write_ablation(plan: Plan, content: dict[str, Any], out: Path) -> None:
    """Write the folder, whole or not at all."""
    section = plan.recipe.ablation
    assert section is not None
    rows = [(name, row) for name, family in content["families"].items() for row in family["differences"]]
    with output_folder(out) as folder:
        write_file(folder / RESULTS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        draw_forest(content, folder / FIGURE)
        report = _report(content, folder / FIGURE)
        write_file(folder / "report.md", report.markdown())
        write_file(folder / "report.html", report.html())
        write_manifest(
            folder,
            kind="ablation",
            section=plan.recipe.model_dump(mode="json"),
            counts={"families": len(content["families"]), "comparisons": len(rows)},
            headline={f"ablate.{name}.{row['variant']}.{row['task']}": row["mean"] for name, row in rows},
        )


def summary(content: Mapping[str, Any]) -> Iterator[str]:
    """Every verdict as a line."""
    for name, family in content["families"].items():
        for row in family["differences"]:
            yield f"{name}: {_sentence(family, row)}"


def _sentence(family: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    labels = {variant: one["label"] for variant, one in family["variants"].items()}
    said = {
        "better": f"is better than {labels[family['baseline']]}",
        "worse": f"is worse than {labels[family['baseline']]}",
        "not resolved": f"against {labels[family['baseline']]}: not resolved",
    }[row["verdict"]]
    metric = f"{row['task']} {METRIC_NAMES.get(row['metric'], row['metric'])}"
    return f"{labels[row['variant']]} {said} ({metric} {signed(row['mean'])} {interval(row['low'], row['high'])})"


def _report(content: Mapping[str, Any], picture: Path) -> Document:
    report = Document(f"Ablation: {content['recipe']}")
    report.paragraph(_in_short(content))
    report.picture(picture, "differences from each family's baseline with intervals")
    for name, family in content["families"].items():
        _family(report, name, family)
    report.heading("How to read it")
    for text in _notes(content):
        report.paragraph(text)
    if len(content["learning_rate_factors"]) > 1:
        report.heading("Picked on dev")
        report.table(*_dev_table(content))
    report.heading("Every cell")
    report.table(*_cell_table(content))
    return report


def _in_short(content: Mapping[str, Any]) -> str:
    verdicts = [row["verdict"] for family in content["families"].values() for row in family["differences"]]
    counts = {kind: verdicts.count(kind) for kind in ("better", "worse", "not resolved")}
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    seeds = ", ".join(map(str, content["seeds"]))
    return f"Differences from the baselines: {said}. Each family at one budget, seeds {seeds}, judged on test."


def _family(report: Document, name: str, family: Mapping[str, Any]) -> None:
    report.heading(f"{name}: {family['question']}")
    report.paragraph(
        f"{family['backbone']}; each variant {family['steps']} steps, {family['examples']:,} examples. Baseline: "
        f"{family['variants'][family['baseline']]['label']}."
    )
    rows = []
    for variant, one in family["variants"].items():
        for task in family["tasks"]:
            scores = [seed[task] for seed in one["test"].values()]
            row = next((d for d in family["differences"] if (d["variant"], d["task"]) == (variant, task)), None)
            rows.append(
                [
                    one["label"],
                    task,
                    f"{mean(scores):.3f} ± {stdev(scores):.3f}",
                    f"{signed(row['mean'])} {interval(row['low'], row['high'])}" if row else "–",
                    row["verdict"] if row else "baseline",
                    _paper(row),
                ]
            )
    report.table(["variant", "task", "test, mean ± sd of seeds", "difference", "verdict", "paper, points"], rows)


def _paper(row: Mapping[str, Any] | None) -> str:
    """The paper's difference on MTEB's mean, and whether ours points the same way, if ours is resolved."""
    if row is None or row["paper_difference"] is None:
        return "–"
    theirs = f"{row['paper_difference']:+.2f}".replace("-", "−")
    if row["verdict"] == "not resolved" or not row["paper_difference"]:
        return theirs
    same = (row["paper_difference"] > 0) == (row["verdict"] == "better")
    return f"{theirs}, {'same' if same else 'other'} way"


def _notes(content: Mapping[str, Any]) -> list[str]:
    confidence, count = content["confidence"], sum(len(f["differences"]) for f in content["families"].values())
    edges = [
        f"{name}/{variant}"
        for name, family in content["families"].items()
        for variant, one in family["variants"].items()
        if one["at_the_grids_edge"]
    ]
    notes = [
        f"Differences are paired and on test: same seeds, same queries (or test items, or documents). [ ] are "
        f"{confidence:.0%} intervals over seeds and items (standard errors through "
        "both, Student's t, since there are few seeds). `Not resolved` means that the "
        "interval holds 0: this budget and this test set cannot tell.",
        _rates(content, edges),
        f"Of {count} comparisons at {confidence:.0%}, about {count * (1 - confidence):.1f} come out resolved by "
        "chance where nothing differs.",
        "A seed changes the order of the data and the new weights, not the split. Trainings are short, which favours "
        "what is close to the pretrained model. The paper's figures are of a 7B model's mean over MTEB's 56 tasks: "
        "only their direction can be compared.",
    ]
    return notes


def _rates(content: Mapping[str, Any], edges: Sequence[str]) -> str:
    """How learning rates were chosen."""
    if len(content["learning_rate_factors"]) == 1:
        return "Learning rates are the recipe's own: the grid has one point, so none was picked."
    factors = ", ".join(f"{factor:g}" for factor in content["learning_rate_factors"])
    said = (
        f"Learning rates: each variant was trained with all its rates × {factors} and seed {content['seeds'][0]}; the "
        "factor with the highest mean over tasks on dev was taken. No other cell was measured on test."
    )
    return said + (f" The grid's edge was picked by {', '.join(edges)}: a wider one may do better." if edges else "")


def _dev_table(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name, family in content["families"].items():
        for variant, one in family["variants"].items():
            for factor, scores in one["dev"].items():
                picked = "picked" if float(factor) == one["picked_factor"] else ""
                cells = [f"{scores[task]:.3f}" if task in scores else "–" for task in _tasks(content)]
                rows.append([f"{name}/{variant}", factor, *cells, picked])
    return ["variant", "rates ×", *_tasks(content), ""], rows


def _cell_table(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name, family in content["families"].items():
        for variant, one in family["variants"].items():
            for seed, scores in one["test"].items():
                cells = [f"{scores[task]:.3f}" if task in scores else "–" for task in _tasks(content)]
                rows.append([f"{name}/{variant}", f"{one['picked_factor']:g}", seed, *cells])
    return ["variant", "rates ×", "seed", *_tasks(content)], rows


def _tasks(content: Mapping[str, Any]) -> list[str]:
    return [*dict.fromkeys(task for family in content["families"].values() for task in family["tasks"])]
