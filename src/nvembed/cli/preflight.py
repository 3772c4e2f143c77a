"""Checks at the door: what can be known to fail is refused before anything is written."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from nvembed.core.errors import UserError
from nvembed.recipe import Recipe

logger = logging.getLogger(__name__)


def check_run(recipe: Recipe, output_dir: Path, tracking_uri: str) -> None:
    """Everything that can be checked before `nvembed run` starts. Writes nothing.

    Raises:
        UserError: no GPU for a GPU recipe, a model that does not fit, a source that cannot be read, an output folder
            that cannot be written, an MLflow server that does not answer.
    """
    from nvembed import tracking
    from nvembed.steps.door import check_recipe

    check_recipe(recipe)
    check_writable(output_dir)
    tracking.check_server(tracking_uri, timeout=5)


def check_writable(folder: Path) -> None:
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
            f"--output-dir {folder}: cannot write in {nearest} ({reason}); name a folder that you can write"
        ) from error
