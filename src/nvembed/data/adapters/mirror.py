"""A folder in place of the hub: `<repo>/<config>/<split>.parquet` (or .jsonl, .csv, in parts `<split>-*`).

It serves machines without a network, and the tests. Its `<repo>/README.md` may give the card's licence.
"""

from __future__ import annotations

import fnmatch
import re
from pathlib import PurePosixPath
from typing import Any

from nvembed.core.errors import UserError
from nvembed.data.adapters.hub import Found
from nvembed.data.locations import source_digest

_PART = re.compile(r"-\d{5}(-of-\d{5})?$")
_DATA = re.compile(r"\.(jsonl|ndjson|json|parquet|pq|csv|tsv)(\.(gz|bz2|xz))?$")


def find_in_mirror(mirror: str, repo: str, config: str | None, split: str, files: str | None) -> Found:
    """The data files of a table in a mirror; its revision is the digest of their contents.

    Raises UserError if the repository, configuration or split is not there; it names those that are.
    """
    import fsspec

    filesystem, root = fsspec.core.url_to_fs(mirror)
    scheme = mirror.partition("://")[0] + "://" if "://" in mirror else ""
    home = f"{root.rstrip('/')}/{repo}"
    where = f"{repo} in data.hub_mirror {mirror}"
    if not filesystem.isdir(home):
        raise UserError(f"{where}: there is no such folder; put <config>/<split>.parquet there")
    if files is not None:
        fits = sorted(name for name in filesystem.find(home) if fnmatch.fnmatch(name[len(home) + 1 :], files))
        return _found(where, scheme, fits, files, _license(filesystem, home), what=f"file {files}", there=[])
    configs = sorted(PurePosixPath(name).name for name in filesystem.ls(home, detail=False) if filesystem.isdir(name))
    folder = config or ("default" if "default" in configs or len(configs) != 1 else configs[0])
    if folder not in configs:
        raise UserError(f"{where}: has no such configuration {folder!r}; there are {', '.join(configs) or 'none'}")
    by_split: dict[str, list[str]] = {}
    for name in sorted(filesystem.ls(f"{home}/{folder}", detail=False)):
        stem = PurePosixPath(name).name
        if _DATA.search(stem):
            by_split.setdefault(_PART.sub("", _DATA.sub("", stem)), []).append(name)
    splits = [name for name in by_split if fnmatch.fnmatchcase(name, split)]
    if len(splits) > 1:
        raise UserError(f"{where}: {len(splits)} splits fit {split!r} ({', '.join(splits)}); name one")
    fits = by_split[splits[0]] if splits else []
    name = splits[0] if splits else split
    there = sorted(by_split)
    return _found(where, scheme, fits, name, _license(filesystem, home), what=f"split {split!r}", there=there)


def _found(
    where: str, scheme: str, files: list[str], split: str, license: str | None, *, what: str, there: list[str]
) -> Found:
    from nvembed.core.digests import digest_json

    if not files:
        raise UserError(f"{where}: has no {what}; there are {', '.join(there) or 'no others'}")
    paths = tuple(f"{scheme}{name}" for name in files)
    return Found(paths, digest_json([source_digest(path) for path in paths])[:40], license, split)


def _license(filesystem: Any, home: str) -> str | None:
    import yaml

    try:
        text = filesystem.cat_file(f"{home}/README.md").decode("utf-8")
    except FileNotFoundError:
        return None
    head = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    card = yaml.safe_load(head[1]) if head else None
    return str(card["license"]) if isinstance(card, dict) and card.get("license") else None
