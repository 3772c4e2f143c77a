"""Where a user's file lies, through fsspec: here or on a mounted volume, s3://, gs://, hf://datasets/…@revision."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}
_KINDS = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    ".csv": "csv",
    ".tsv": "tsv",
}
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface-hub"}
_STAMPS = ("ETag", "etag", "md5Hash", "blob_id")  # what stores name content by; a modification time is not among them
_CHUNK = 1 << 20


def file_kind(path: str) -> str:
    """`jsonl`, `parquet`, `csv` or `tsv` by the file's name, compression aside. Raises UserError for another."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    kind = _KINDS.get(suffixes[-1]) if suffixes else None
    if kind is None:
        known = ", ".join(_KINDS)
        raise UserError(
            f"data.path: {path}: its name does not tell its format; it must end in {known} (.gz may follow)"
        )
    return kind


@contextlib.contextmanager
def open_file(path: str, *, decompress: bool = True) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes.

    Raises UserError if it is not there, is a folder, is empty, or cannot be read from here.
    """
    filesystem, inner, _ = _locate(path)
    suffix = PurePosixPath(path).suffix.lower()
    try:
        opened = filesystem.open(inner, "rb", compression=COMPRESSIONS.get(suffix) if decompress else None)
    except Exception as error:  # every store has errors of its own
        raise _unreadable(path, error) from error
    with opened as stream:
        yield stream


def source_digest(path: str) -> str:
    """What names a file's content: the store's own stamp (ETag, blob id) of a remote one, else SHA-256 of its bytes.

    Raises UserError as `open_file` does.
    """
    filesystem, inner, info = _locate(path)
    if not _is_local(filesystem):
        stamp = next((str(info[name]) for name in _STAMPS if info.get(name)), None)
        if stamp:
            return digest_json([path, stamp, info.get("size")])
    digest = hashlib.sha256()
    try:
        with filesystem.open(inner, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except Exception as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest()


def _locate(path: str) -> tuple[Any, str, dict[str, Any]]:
    """File system, path within it and what it says of the file. Raises UserError as `open_file` does."""
    import fsspec

    scheme = path.partition("://")[0] if "://" in path else "file"
    try:
        filesystem, inner = fsspec.core.url_to_fs(path)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        mend = "pip install 'nvembed[cloud]'" if package else f"install it ({error})"
        raise UserError(f"data.path: {path}: reading {scheme}:// needs the package {package or '?'}; {mend}") from error
    except Exception as error:
        raise _unreadable(path, error) from error
    try:
        filesystem.invalidate_cache()  # a listing from before would hide that the file changed
        info = filesystem.info(inner)
    except FileNotFoundError:
        # a web server that is down looks the same as a missing file through fsspec
        reach = "" if _is_local(filesystem) else ", or its store cannot be reached"
        raise UserError(f"data.path: {path}: there is no such file{reach}; check the path") from None
    except Exception as error:
        raise _unreadable(path, error) from error
    if info.get("type") == "directory":
        raise UserError(f"data.path: {path}: is a folder; name one file in it")
    if info.get("size") == 0:
        raise UserError(f"data.path: {path}: is empty; give a file with rows")
    return filesystem, inner, info


def _is_local(filesystem: Any) -> bool:
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def _unreadable(path: str, error: Exception) -> UserError:
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return UserError(f"data.path: {path}: cannot be read ({said[:200]}); check the path and the right to read it")
