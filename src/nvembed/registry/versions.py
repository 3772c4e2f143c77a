"""The registered versions of a model, as MLflow's registry tells them. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.tracking.client import client
from nvembed.tracking.store import sqlite_file, tracking_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
MODEL_TAG = "nvembed.model_digest"
ADAPTER_TAG = "nvembed.adapter"
FOLDER_TAG = "nvembed.folder"  # content digest of the model folder, as its manifest had it when it was registered
EVALUATION_TAG = "nvembed.evaluation."  # + a key of the eval sets; the value is the evaluation folder's content digest


@dataclass(frozen=True)
class Version:
    """One registered version. `digest` names the model by content; `run` is the MLflow run that holds its evidence."""

    name: str
    version: str
    aliases: tuple[str, ...]
    digest: str
    run: str
    source: str
    created: str
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}/{self.version}"


def list_versions(name: str | None = None) -> list[Version]:
    """All versions of a model, or of every model registered here, newest first. Raises UserError without a server."""
    mlflow = client()
    names = [name] if name else sorted(model.name for model in mlflow.search_registered_models())
    return [version for each in names for version in _versions(mlflow, each)]


def find_version(name: str, digest: str) -> Version | None:
    """The version that holds the model with this content digest."""
    return next((version for version in _versions(client(), name) if version.digest == digest), None)


def named(name: str, number: str) -> Version:
    """The version with this number. Raises UserError, naming those there are."""
    versions = list_versions(name)
    for version in versions:
        if version.version == number:
            return version
    known = ", ".join(version.version for version in versions) or "none"
    raise UserError(f"model {name!r} has no version {number}; known: {known}")


def aliased(name: str, alias: str) -> Version | None:
    """The version that carries an alias."""
    return next((version for version in _versions(client(), name) if alias in version.aliases), None)


def fetch_model(version: Version, folder: Path | None = None) -> Path:
    """The version's Sentence Transformers folder: in place where artifacts are local files, else in `folder`."""
    artifacts = fetch(version.uri, folder) / "artifacts"
    return next(inner for inner in sorted(artifacts.iterdir()) if (inner / "config.json").is_file())


def check_files(version: Version) -> None:
    """Make sure that a version's files are those that were registered, where they lie on this machine.

    Elsewhere the model checks itself when it is loaded (`embedder`). Raises UserError: gone, or changed.
    """
    if FOLDER_TAG not in version.tags or sqlite_file(tracking_uri() or "") is None:
        return
    what = f"{version.name} version {version.version}"
    try:
        manifest = read_manifest(fetch_model(version), kind="model", verify=True)
    except UserError as error:
        raise UserError(f"{what}: {error}; it is not made champion") from error
    except (OSError, StopIteration) as error:
        raise UserError(f"{what}: its files are gone from {version.source}; register it again") from error
    if manifest.content != version.tags[FOLDER_TAG]:
        raise UserError(f"{what}: its files are not those that were registered; it is not made champion")


def fetch(uri: str, folder: Path | None = None) -> Path:
    """Download artifacts by URI. Without a `folder` local ones are used where they lie."""
    mlflow = client()
    import mlflow as package

    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    where = package.artifacts.download_artifacts(
        artifact_uri=uri, dst_path=str(folder) if folder else None, tracking_uri=mlflow.tracking_uri
    )
    return Path(where)


def _versions(mlflow: MlflowClient, name: str) -> list[Version]:
    from mlflow.exceptions import MlflowException

    try:
        aliases = mlflow.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return []
        raise
    found = [_read(each, aliases) for each in mlflow.search_model_versions(f"name = '{name}'")]
    return sorted(found, key=lambda version: -int(version.version))


def _read(entry: Any, aliases: Mapping[str, str]) -> Version:
    return Version(
        name=entry.name,
        version=str(entry.version),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if str(number) == str(entry.version))),
        digest=entry.tags.get(MODEL_TAG, ""),
        run=entry.run_id or "",
        source=entry.source or "",
        created=datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        tags=dict(entry.tags),
    )
