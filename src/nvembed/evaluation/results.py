"""The evaluation folder: written by `evaluate`, read by `compare`.

`results.json` and `items.parquet` hold nothing that differs from one run to the next; seconds and speed stand in the
manifest, which no content digest covers. Where a candidate's tasks were divided among shards, each writes such a
folder; `shards` puts them together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import output_folder, read_manifest, write_file, write_manifest
from nvembed.core.errors import UserError
from nvembed.evaluation.items import Items, read_items, write_items

if TYPE_CHECKING:
    from nvembed.evaluation.scoring import Scored
    from nvembed.recipe import Evaluation

RESULTS, ITEMS = "results.json", "items.parquet"
Key = tuple[str, str]
"""Split and name of a task."""


@dataclass(frozen=True)
class Results:
    """An evaluation folder read back. `items` maps (split, task) to that task's items, `errors` to why it failed."""

    folder: Path
    candidate: str
    eval_sets: str
    seed: int
    tasks: dict[Key, dict[str, Any]]
    items: dict[Key, Items]
    content: str
    speed: dict[str, Any]
    errors: dict[Key, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Share:
    """Which of several shards a folder holds: its number from 1, how many, and the keys of all shards' tasks."""

    number: int
    of: int
    planned: tuple[Key, ...]


def write_results(
    out: Path,
    candidate: str,
    evaluation: Evaluation,
    *,
    variants: Mapping[str, Sequence[Scored]],
    eval_sets: str,
    inputs: Mapping[str, str],
    licenses: Mapping[str, str],
    speed: Mapping[str, Any],
    errors: Mapping[Key, str] | None = None,
    notes: Mapping[Key, Mapping[str, Any]] | None = None,
    files: Mapping[str, Iterable[tuple[str, str]]] | None = None,
    share: Share | None = None,
) -> None:
    """Write an evaluation folder; of several variants each task keeps the one that scores best on it.

    Args:
        variants: how the model was read → its tasks' results. A task that failed in one of them has failed.
        errors: why tasks failed.
        notes: what else a task's row says: `hf_split`, `subsets`, `group`, `in_domain`.
        files: zips of texts by their place in the folder.
        share: which shard this is.
    """
    errors = dict(errors or {})
    rows, items = [], []
    for key, by_name in _by_task(variants, errors).items():
        variant = max(by_name, key=lambda name: by_name[name].score)
        rows.append(_row(variant, by_name, dict((notes or {}).get(key, {}))))
        items.append((*key, by_name[variant].items))
    write_folder(
        out,
        candidate,
        {"seed": evaluation.seed, "eval_sets": eval_sets},
        rows,
        items,
        errors,
        files or {},
        {
            "section": evaluation.model_dump(mode="json"),
            "inputs": {"eval_sets": eval_sets, **inputs},
            "licenses": licenses,
            "extra": {"candidate": candidate, "speed": dict(speed), **_told(share)},
        },
    )


def _by_task(variants: Mapping[str, Sequence[Scored]], errors: Mapping[Key, str]) -> dict[Key, dict[str, Scored]]:
    found: dict[Key, dict[str, Scored]] = {}
    for name, several in variants.items():
        for scored in several:
            key = (scored.source.split, scored.source.name)
            if key not in errors:
                found.setdefault(key, {})[name] = scored
    return found


def _row(variant: str, by_name: Mapping[str, Scored], notes: dict[str, Any]) -> dict[str, Any]:
    best = by_name[variant]
    source = best.source
    return {
        "split": source.split,
        "task": source.name,
        "type": source.type,
        "metric": source.main_score,
        "score": best.score,
        "variant": variant,
        "items": len(best.items),
        "scores": best.scores,
        "subsets": best.subsets,
        "instruction": source.instruction,
        "in_domain": False,
        **notes,
        "variants": {name: {"score": one.score, "scores": one.scores} for name, one in by_name.items()},
    }


def write_folder(
    out: Path,
    candidate: str,
    head: Mapping[str, Any],
    rows: Sequence[dict[str, Any]],
    items: Sequence[tuple[str, str, Any]],
    errors: Mapping[Key, str],
    files: Mapping[str, Iterable[tuple[str, str]]],
    manifest: Mapping[str, Any],
) -> None:
    """Write rows, items, errors and zips as an evaluation folder.

    `head` holds `eval_sets` and `seed`, `manifest` what `write_manifest` takes beside counts and headline.
    """
    from nvembed.evaluation.submission import write_zip

    failed = [{"split": split, "task": task, "error": said} for (split, task), said in errors.items()]
    headline = {f"eval.{candidate}.{row['split']}.{row['task']}": float(row["score"]) for row in rows}
    if failed:
        headline[f"eval.{candidate}.failed_tasks"] = float(len(failed))
    with output_folder(out) as folder:
        content = {
            "candidate": candidate,
            "eval_sets": head["eval_sets"],
            "seed": head["seed"],
            "tasks": list(rows),
            "errors": failed,
        }
        write_file(folder / RESULTS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        write_items(folder / ITEMS, items)
        for name, entries in files.items():
            write_zip(folder / name, iter(entries))
        write_manifest(
            folder,
            kind="evaluation",
            counts={f"{row['split']}.{row['task']}": int(row["items"]) for row in rows},
            headline=headline,
            **manifest,
        )


def _told(share: Share | None) -> dict[str, Any]:
    if share is None or share.of == 1:
        return {}
    return {"share": {"number": share.number, "of": share.of, "planned": [list(key) for key in share.planned]}}


def read_results(folder: Path | str) -> Results:
    """Read an evaluation folder. Raises UserError if it is none or was changed."""
    folder = Path(folder)
    manifest = read_manifest(folder, kind="evaluation", verify=True)
    try:
        content = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        tasks = {(row["split"], row["task"]): row for row in content["tasks"]}
        kept = read_items(folder / ITEMS)
        return Results(
            folder=folder,
            candidate=content["candidate"],
            eval_sets=content["eval_sets"],
            seed=content["seed"],
            tasks=tasks,
            items={key: kept[key] for key in tasks},
            content=manifest.content,
            speed=dict(manifest.extra.get("speed") or {}),
            errors={(row["split"], row["task"]): row["error"] for row in content.get("errors", [])},
        )
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{folder}: cannot be read as an evaluation ({error!r}); evaluate anew") from error
