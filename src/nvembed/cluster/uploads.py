"""Files of this machine, put where a cluster's pods can read them: into a store, under their own digest."""

from __future__ import annotations

import os
from pathlib import Path

from nvembed.core.digests import digest_file, digest_folder
from nvembed.core.errors import UserError
from nvembed.core.progress import Progress
from nvembed.recipe import Recipe

STORE = "NVEMBED_UPLOADS"


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
    for key, value in (("data.path", recipe.data.path), ("synthesis.documents", recipe.synthesis.documents)):
        if value is None or "://" in value:
            continue
        here = Path(value).expanduser()
        if here.exists():
            found[key] = value
        elif not here.is_absolute():
            raise UserError(f"{key}: {value}: there is no such file here, and a relative path means nothing to a pod")
    return found
