"""A candidate's tasks divided among shards: their folders put together are what one shard would have written."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nvembed.core.artifacts import Manifest, read_manifest
from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.state import hold, state_folder
from nvembed.evaluation.results import read_results, write_folder


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
    write_folder(
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
