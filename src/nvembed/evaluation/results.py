"""The evaluation folder: written by `evaluate`, read by `compare`.

`results.json` and `items.parquet` hold nothing that differs from one run to the next; seconds and speed stand in the
manifest, which no content digest covers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import output_folder, read_manifest, write_file, write_manifest
from nvembed.core.errors import UserError
from nvembed.evaluation.items import Items, read_items, write_items

if TYPE_CHECKING:
    from nvembed.evaluation.scoring import Scored
    from nvembed.recipe import Evaluation

RESULTS, ITEMS = "results.json", "items.parquet"


@dataclass(frozen=True)
class Results:
    """An evaluation folder read back. `items` maps (split, task) to that task's item rows."""

    folder: Path
    candidate: str
    eval_sets: str
    seed: int
    tasks: dict[tuple[str, str], dict[str, Any]]
    items: dict[tuple[str, str], Items]
    content: str
    speed: dict[str, Any]


def write_results(
    out: Path,
    candidate: str,
    evaluation: Evaluation,
    *,
    variants: Mapping[str, list[Scored]],
    eval_sets: str,
    inputs: Mapping[str, str],
    licenses: Mapping[str, str],
    speed: Mapping[str, Any],
) -> None:
    """Write an evaluation folder; of several variants each task keeps the one that scores best on it."""
    rows: list[dict[str, Any]] = []
    items: list[tuple[str, str, Any]] = []
    for scored in zip(*variants.values(), strict=True):
        by_name = dict(zip(variants, scored, strict=True))
        variant = max(by_name, key=lambda name: by_name[name].score)
        best = by_name[variant]
        source = best.source
        rows.append(
            {
                "split": source.split,
                "task": source.name,
                "type": source.type,
                "metric": source.main_score,
                "score": best.score,
                "variant": variant,
                "items": len(best.items),
                "scores": best.scores,
                "instruction": source.instruction,
                "variants": {name: {"score": one.score, "scores": one.scores} for name, one in by_name.items()},
            }
        )
        items.append((source.split, source.name, best.items))
    headline = {f"eval.{candidate}.{row['split']}.{row['task']}": float(str(row["score"])) for row in rows}
    with output_folder(out) as folder:
        content = {"candidate": candidate, "eval_sets": eval_sets, "seed": evaluation.seed, "tasks": rows}
        write_file(folder / RESULTS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        write_items(folder / ITEMS, items)
        write_manifest(
            folder,
            kind="evaluation",
            section=evaluation.model_dump(mode="json"),
            inputs={"eval_sets": eval_sets, **inputs},
            counts={f"{row['split']}.{row['task']}": int(str(row["items"])) for row in rows},
            licenses=licenses,
            headline=headline,
            extra={"candidate": candidate, "speed": dict(speed)},
        )


def read_results(folder: Path | str) -> Results:
    """Read an evaluation folder. Raises UserError if it is none or was changed."""
    folder = Path(folder)
    manifest = read_manifest(folder, kind="evaluation", verify=True)
    try:
        content = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        tasks = {(row["split"], row["task"]): row for row in content["tasks"]}
        kept = read_items(folder / ITEMS)
        items = {key: kept[key] for key in tasks}
        return Results(
            folder=folder,
            candidate=content["candidate"],
            eval_sets=content["eval_sets"],
            seed=content["seed"],
            tasks=tasks,
            items=items,
            content=manifest.content,
            speed=dict(manifest.extra.get("speed") or {}),
        )
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{folder}: cannot be read as an evaluation ({error!r}); evaluate anew") from error
