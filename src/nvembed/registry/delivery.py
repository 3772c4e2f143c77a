"""A registered version on its way to a server: fetched by alias, held to its recorded digests, made ready to serve.

    python -m nvembed.registry.delivery NAME ALIAS FOLDER

writes `FOLDER/model`, an MLflow model for `mlflow models serve`, or nothing. The weights are the version's; the code is
this package's own, never the copy that lies among the artifacts: no digest speaks for that one.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from pathlib import Path

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.registry.versions import FOLDER_TAG, Version, aliased, fetch_model

logger = logging.getLogger(__name__)


def deliver(name: str, alias: str, folder: Path) -> Version:
    """Make `folder/model` of the version that carries an alias; hand the version back.

    Raises:
        UserError: no such alias, no recorded digest, or files that are not those that were registered.
    """
    version = aliased(name, alias)
    if version is None:
        raise UserError(f"model {name!r} has no version with the alias {alias}; see `nvembed registry list`")
    folder.mkdir(parents=True, exist_ok=True)
    download = Path(tempfile.mkdtemp(dir=folder, prefix="download-"))
    try:
        source = fetch_model(version, download)
        check_delivered(version, source)
        _save(source, folder / "model")
    finally:
        shutil.rmtree(download, ignore_errors=True)
    return version


def check_delivered(version: Version, folder: Path) -> None:
    """Hold a fetched model folder to what the registry recorded of it. Raises UserError."""
    what, recorded = f"{version.name} version {version.version}", version.tags.get(FOLDER_TAG)
    if not recorded:
        raise UserError(f"{what}: no digest was recorded of its files; register it again")
    try:
        manifest = read_manifest(folder, kind="model", verify=True)
    except UserError as error:
        raise UserError(f"{what} is not served: {error}") from error
    if manifest.content != recorded or manifest.extra.get("model_digest") != version.digest:
        raise UserError(f"{what} is not served: its files are not those that were registered")


def _save(source: Path, target: Path) -> None:
    """An MLflow model around a model folder, with this package's code and what the version tells of its inputs."""
    import mlflow.pyfunc
    from mlflow.models import Model

    fetched = Model.load(str(source.parents[1] / "MLmodel"))
    with tempfile.TemporaryDirectory(dir=target.parent) as made:
        mlflow.pyfunc.save_model(
            path=f"{made}/model",
            python_model=str(Path(__file__).with_name("embedder.py")),
            artifacts={"model": str(source)},
            signature=fetched.signature,
            pip_requirements=[],
        )
        if target.exists():
            shutil.rmtree(target)
        Path(made, "model").rename(target)


def main(arguments: list[str]) -> None:
    """See the module."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(arguments) != 3:
        raise SystemExit("say NAME ALIAS FOLDER")
    try:
        version = deliver(arguments[0], arguments[1], Path(arguments[2]))
    except UserError as error:
        raise SystemExit(str(error)) from None
    logger.info("%s version %s is ready", version.name, version.version)


if __name__ == "__main__":
    main(sys.argv[1:])
