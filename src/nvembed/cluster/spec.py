"""Where the compiled pipeline lies: shipped in the wheel, or in the repository this package is installed from."""

from __future__ import annotations

from pathlib import Path

from nvembed.core.errors import UserError

COMPILED = "nvembed.yaml"


def checkout_root() -> Path | None:
    """The repository's root if this package is used from a checkout, else None."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pipelines" / "pipeline.py").is_file() else None


def pipeline_file() -> Path:
    """The compiled pipeline. A checkout's own comes first: in a wheel there is no other.

    Raises:
        UserError: neither is there.
    """
    root = checkout_root()
    candidates = [Path(__file__).resolve().with_name(COMPILED)]
    if root is not None:
        candidates.insert(0, root / "pipelines" / COMPILED)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"{COMPILED} is missing; run `nvembed compile` in a checkout, or install nvembed again")
