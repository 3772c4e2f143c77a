"""This package's code on its way into a registered model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ENTRY = Path("registry", "embedder.py")


@contextmanager
def code_to_log(package: Path = PACKAGE) -> Iterator[Path]:
    """A copy of the package for MLflow to copy in turn: files that the owner may write.

    MLflow copies modes along and then writes over its own copy, which fails where the code is nobody's to write, as it
    is in our image.
    """
    with tempfile.TemporaryDirectory(prefix="nvembed-code-") as made:
        copy = Path(made) / package.name
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(package, copy, ignore=ignored, copy_function=shutil.copyfile)
        for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
        yield copy
