"""Checks at the door: what can be known to fail is refused before anything is written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from nvembed.core.errors import UserError
from nvembed.recipe import Recipe

MLFLOW_TIMEOUT = 4.0  # seconds; with the time to start up, the answer is there within five


def check_run(recipe: Recipe, output_dir: Path, tracking_uri: str) -> None:
    """Everything that can be checked before `nvembed run` starts, what is quick to check first. Writes nothing.

    Raises:
        UserError: an output folder that cannot be written, an MLflow server that does not answer, no GPU for a GPU
            recipe, a model that does not fit, a source that cannot be read.
    """
    from nvembed import tracking

    check_writable(output_dir)
    tracking.check_server(tracking_uri, timeout=MLFLOW_TIMEOUT)
    from nvembed.steps.door import check_recipe

    check_recipe(recipe)


def check_writable(folder: Path, *, option: str = "--output-dir") -> None:
    """Raise UserError unless `folder` can be written, or made. Leaves nothing behind.

    The right to write is tried, not asked for: read-only mounts and quotas do not show in permission bits.
    """
    nearest = folder.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{option} {folder}: cannot write in {nearest} ({reason}); name a folder that you can write"
        ) from error
