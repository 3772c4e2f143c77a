"""The evaluation folder: written by `evaluate`, read by `compare`.

`results.json` and `items.parquet` hold nothing that differs from one run to the next; seconds and speed stand in the
manifest, which no content digest covers. Where a candidate's tasks were divided among shards, each shard writes such a
folder, and `whole_folders` puts them together: what comes out is what one shard would have written.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import Manifest, output_folder, read_manifest, write_file, write_manifest
from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.state import hold, state_folder
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
    _write_folder(
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


def _write_folder(
    out: Path,
    candidate: str,
    head: Mapping[str, Any],
    rows: Sequence[dict[str, Any]],
    items: Sequence[tuple[str, str, Any]],
    errors: Mapping[Key, str],
    files: Mapping[str, Iterable[tuple[str, str]]],
    manifest: Mapping[str, Any],
) -> None:
    from nvembed.evaluation.airbench import write_zip

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


def whole_folders(folders: Sequence[Path]) -> list[Path]:
    """One folder a candidate: shards of one are put together in the state, a folder that is whole stays as it is.

    Raises:
        UserError: a shard is missing, or two of a candidate were measured on other sets or with another section.
    """
    shards: dict[str, list[Path]] = {}
    whole = []
    for folder in folders:
        manifest = read_manifest(folder, kind="evaluation")
        if "share" not in manifest.extra:
            whole.append(folder)
            continue
        candidate = str(manifest.extra["candidate"])
        if candidate not in shards:
            whole.append(Path(candidate))  # its place among the others
        shards.setdefault(candidate, []).append(folder)
    return [_joined(shards[str(one)]) if str(one) in shards else one for one in whole]


def _joined(folders: Sequence[Path]) -> Path:
    manifests = {folder: read_manifest(folder, kind="evaluation") for folder in folders}
    by_number = {int(manifests[folder].extra["share"]["number"]): folder for folder in folders}
    first = manifests[folders[0]]
    of = int(first.extra["share"]["of"])
    if missing := sorted(set(range(1, of + 1)) - set(by_number)):
        raise UserError(f"{folders[0]}: share {missing[0]} of {of} is missing beside it; evaluate it, then compare")
    for folder, manifest in manifests.items():
        told = (manifest.section, manifest.inputs, manifest.extra["share"]["planned"])
        if told != (first.section, first.inputs, first.extra["share"]["planned"]):
            raise UserError(f"{folder}: was measured on other sets than its fellow {folders[0]}; evaluate both anew")
    ordered = [by_number[number] for number in range(1, of + 1)]
    place = state_folder("evaluation-joined", digest_json([manifests[folder].content for folder in ordered]))
    with hold(place):
        out = place / "evaluation"
        if not out.is_dir():
            _join(ordered, first, out)
    return out


def _join(folders: Sequence[Path], first: Manifest, out: Path) -> None:
    parts = [read_results(folder) for folder in folders]
    planned = [tuple(key) for key in first.extra["share"]["planned"]]
    rows = {key: row for part in parts for key, row in part.tasks.items()}
    items = {key: found for part in parts for key, found in part.items.items()}
    errors = {key: said for part in parts for key, said in part.errors.items()}
    licenses = {name: text for folder in folders for name, text in read_manifest(folder).licenses.items()}
    extra = {"candidate": parts[0].candidate, "speed": _added(part.speed for part in parts)}
    _write_folder(
        out,
        parts[0].candidate,
        {"seed": parts[0].seed, "eval_sets": parts[0].eval_sets},
        [rows[key] for key in planned if key in rows],
        [(*key, items[key]) for key in planned if key in rows],
        {key: errors[key] for key in [*planned, *errors] if key in errors},
        {name: _entries(folders, name) for folder in folders for name in _zips(folder)},
        {"section": dict(first.section), "inputs": dict(first.inputs), "licenses": licenses, "extra": extra},
    )


def _zips(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.zip"))


def _entries(folders: Sequence[Path], name: str) -> Iterator[tuple[str, str]]:
    """The texts of all shards' zips of one name, in order of theirs."""
    found = []
    for folder in folders:
        if (folder / name).is_file():
            with zipfile.ZipFile(folder / name) as packed:
                found += [(inner, folder) for inner in packed.namelist()]
    for inner, folder in sorted(found):
        with zipfile.ZipFile(folder / name) as packed:
            yield inner, packed.read(inner).decode("utf-8")


def _added(speeds: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Shards' speeds as one: their seconds and texts added up."""
    total: dict[str, Any] = {}
    for speed in speeds:
        for name, value in speed.items():
            total[name] = round(total.get(name, 0) + value, 2) if isinstance(value, int | float) else value
    if total.get("encoding_seconds"):
        total["texts_per_second"] = round(total["texts"] / total["encoding_seconds"], 1)
    return total
