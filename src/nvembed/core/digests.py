"""Digests name things by their content, so that a cache can never serve what has changed."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces, no NaN. Equal values give equal strings."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_text(text: str) -> str:
    """SHA-256 of a text, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value's canonical form."""
    return digest_text(canonical_json(value))


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_folder(folder: Path, *, exclude: tuple[str, ...] = ("manifest.json", ".lock")) -> str:
    """SHA-256 over the relative names and digests of a folder's files; `exclude` holds relative POSIX names.

    The manifest holds this digest, and a lock (`core.state.hold`) is nobody's content.
    """
    entries = {
        path.relative_to(folder).as_posix(): digest_file(path)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.relative_to(folder).as_posix() not in exclude
    }
    return digest_json(entries)


@functools.cache
def code_digest(*parts: str) -> str:
    """SHA-256 of this package's source: changed code is another digest, so no cache serves what older code made.

    `parts` are rooms or files of it, relative to the package; none given: all of it.
    """
    root = Path(__file__).resolve().parents[1]
    paths = [path for part in parts for path in (root / part, *(root / part).rglob("*"))] if parts else root.rglob("*")
    files = {p.relative_to(root).as_posix(): digest_file(p) for p in sorted(paths) if p.suffix in _SOURCES}
    return digest_json(files)


_SOURCES = {".py", ".yaml", ".json", ".j2", ".html", ".tsv"}
