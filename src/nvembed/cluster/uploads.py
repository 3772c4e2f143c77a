"""Files of this machine, put where a cluster's pods can read them: into a store, under their own digest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nvembed.core.digests import digest_file, digest_folder
from nvembed.core.errors import UserError
from nvembed.core.progress import Progress
from nvembed.recipe import Recipe

STORE = "NVEMBED_UPLOADS"
_UPLOADABLE = ("data.path", "synthesis.documents")
_ADDRESS = "give its s3://, gs:// or hf:// address"


def upload(path: Path, store: str, *, key: str) -> str:
    """Put a file, or a folder of files, under `<store>/<digest>/`; its address there.

    What is there already is not sent again: the digest names the content, and a name appears only when all is there.

    Args:
        path: a file or a folder. store: `s3://bucket/folder` and the like. key: what the recipe calls it, for errors.

    Raises:
        UserError: a store that cannot be reached or written.
    """
    import fsspec

    whole = path.is_dir()
    digest = (digest_folder(path, exclude=()) if whole else digest_file(path))[:32]
    address = f"{store.rstrip('/')}/{digest}/{path.resolve().name}"
    files = sorted(file for file in path.rglob("*") if file.is_file()) if whole else [path]
    try:
        system, target = fsspec.core.url_to_fs(address)
        marker = f"{target.rpartition('/')[0]}/.complete"
        if system.exists(marker):
            return address
        progress = Progress("uploading", len(files))
        for number, file in enumerate(files, 1):
            place = f"{target}/{file.relative_to(path).as_posix()}" if whole else target
            system.makedirs(place.rpartition("/")[0], exist_ok=True)
            system.put_file(str(file), place)
            progress.update(number)
        progress.close()
        system.pipe_file(marker, b"")
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - each store has exceptions of its own
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key}: {path} cannot be uploaded to {store} ({type(error).__name__}: {said}); look at the address "
            "(AWS_ENDPOINT_URL for a store of your own), the bucket and the credentials"
        ) from None
    return address


def uploaded(paths: dict[str, str], store: str | None) -> dict[str, str]:
    """Recipe key → address, of every local path among them. Raises UserError without a store."""
    here = {key: Path(value).expanduser() for key, value in paths.items()}
    if not here:
        return {}
    chosen = store or os.environ.get(STORE)
    if chosen is None:
        key, path = next(iter(here.items()))
        raise UserError(
            f"{key}: {path} lies on this machine, where a cluster's pods cannot read it; give --upload-to "
            f"s3://bucket/folder (or set {STORE}), or upload it yourself and give s3://, gs:// or hf://, or a path on "
            "a volume that the pods mount"
        )
    return {key: upload(path, chosen, key=key) for key, path in here.items()}


def local_paths(recipe: Recipe) -> dict[str, str]:
    """Recipe key → path, of data on this machine. A whole path that is not here is taken for one on a pod's volume.

    Raises UserError for a relative path that is not here: it is nowhere.
    """
    found = {}
    for key, value in _uploadable(recipe).items():
        here = Path(value).expanduser()
        if here.exists():
            found[key] = value
        elif not here.is_absolute():
            raise UserError(f"{key}: {value}: there is no such file here, and a relative path means nothing to a pod")
    return found


def check_paths_in_pod(recipe: Recipe) -> None:
    """Raise UserError for data that this pod does not see: it lies where the recipe was submitted from."""
    for key, value in {**_uploadable(recipe), **_other_paths(recipe)}.items():
        if Path(value).expanduser().exists():
            continue
        mend = f"give `nvembed submit --upload-to s3://bucket/folder`, which uploads it, or {_ADDRESS}"
        raise UserError(
            f"{key}: {value}: there is no such file in this pod: on a cluster a path means a volume that the pods "
            f"mount, not your machine; {mend if key in _UPLOADABLE else f'put it there, or {_ADDRESS}'}"
        )


def _uploadable(recipe: Recipe) -> dict[str, str]:
    """Recipe key → local path, of what `nvembed submit` uploads."""
    return _local(dict(zip(_UPLOADABLE, (recipe.data.path, recipe.synthesis.documents), strict=True)))


def _other_paths(recipe: Recipe) -> dict[str, str]:
    sources = {f"data.sources.{name}.path": one.path for name, one in recipe.data.sources.items()}
    own = {f"evaluation.own.{name}.path": one.path for name, one in recipe.evaluation.own.items()}
    return _local({**sources, **own, "data.hub_mirror": recipe.data.hub_mirror})


def _local(paths: Mapping[str, str | None]) -> dict[str, str]:
    return {key: path for key, path in paths.items() if path is not None and "://" not in path}
