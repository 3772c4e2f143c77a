"""Folders that appear whole or not at all, each with a manifest that says what made it.

A manifest (`manifest.json`) holds: `kind`, `section` (the recipe section that asked for it), `inputs` (name → content
digest of each input), `code` (digest of the source), `counts`, `licenses` (source → licence), `headline` (the few
numbers a person looks at first; tracking copies them to the parent run), `content` (digest of every other file),
`created` (UTC, ISO 8601), `tracking_run_id` (the run that made it, if any), `extra` and `usage` (what the tasks took
that made it, see `core.usage`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nvembed.core.digests import code_digest, digest_folder
from nvembed.core.errors import UserError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What made a folder. See the module's docstring for the fields."""

    kind: str
    section: Mapping[str, Any]
    inputs: Mapping[str, str]
    code: str
    counts: Mapping[str, int]
    licenses: Mapping[str, str]
    headline: Mapping[str, float]
    content: str
    created: str
    tracking_run_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    usage: Sequence[Mapping[str, Any]] = ()


@contextlib.contextmanager
def output_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it becomes `path`, on failure it is removed.

    An existing `path` is replaced only once the new folder is complete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.partial"
    aside.mkdir()
    try:
        yield aside
        replace_folder(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Rename folder `new` to `path`; what stood there is moved aside first and removed last."""
    old = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.old"
    if path.is_dir() and not path.is_symlink():
        path.rename(old)
    elif path.exists() or path.is_symlink():
        path.unlink()
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def link_file(source: Path, target: Path) -> None:
    """A hard link where the file system has them, else a copy: no one writes into a finished folder's file."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def link_tree(source: Path, target: Path) -> None:
    """A new folder with the files of another, linked; locks are left out."""
    shutil.copytree(
        source, target, copy_function=lambda one, other: link_file(Path(one), Path(other)), ignore=lambda *_: [".lock"]
    )


def write_file(path: Path | str, text: str) -> None:
    """Write a text file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_manifest(
    folder: Path,
    *,
    kind: str,
    section: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    counts: Mapping[str, int] | None = None,
    licenses: Mapping[str, str] | None = None,
    headline: Mapping[str, float] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Manifest:
    """Describe a finished folder. Call it last: it digests every other file there."""
    manifest = Manifest(
        kind=kind,
        section=dict(section),
        inputs=dict(inputs or {}),
        code=code_digest(),
        counts=dict(counts or {}),
        licenses=dict(licenses or {}),
        headline=dict(headline or {}),
        content=digest_folder(folder),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tracking_run_id=os.environ.get("NVEMBED_TRACKING_RUN_ID"),
        extra=dict(extra or {}),
    )
    write_file(folder / MANIFEST, json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n")
    return manifest


def read_manifest(folder: Path | str, *, kind: str | None = None, verify: bool = False) -> Manifest:
    """Read a folder's manifest; `verify` digests the folder anew and compares.

    Raises UserError if the folder has no manifest, is of another kind, or (with `verify`) was changed since.
    """
    file = Path(folder) / MANIFEST
    try:
        manifest = Manifest(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{folder}: no {MANIFEST} here; give a folder that one of nvembed's stages wrote") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: not a manifest that this version can read ({error}); make the folder anew") from error
    if kind is not None and manifest.kind != kind:
        raise UserError(f"{folder}: holds a {manifest.kind}, but a {kind} is needed here")
    if verify and digest_folder(Path(folder)) != manifest.content:
        raise UserError(f"{folder}: its files changed since {manifest.created}; make the folder anew")
    return manifest
