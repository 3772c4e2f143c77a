"""Local paths in a recipe, made absolute: a task runs in another folder."""

from __future__ import annotations

from pathlib import Path


def whole_path(path: str | None) -> str | None:
    """An absolute path; what is no local path stays as it is."""
    return path if path is None or "://" in path else str(Path(path).expanduser().resolve())
