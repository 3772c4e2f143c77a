"""Datasets of the Hugging Face hub as lists of files: found, pinned to a commit, downloaded with patience.

Files are downloaded whole into the hub's own cache, which goes on where an interrupted download ended. No code of a
repository is ever run.
"""

from __future__ import annotations

import fnmatch
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOG = logging.getLogger(__name__)
_SHORT = re.compile(r"[0-9a-f]{4,39}")
_FILE = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)@(?P<revision>[^/]+)/(?P<file>.+)")
FIRST_WAIT = 2.0  # seconds before the second try; doubled before each further one


@dataclass(frozen=True)
class Found:
    """A table of the hub: its data files (`hf://datasets/<repo>@<commit>/<file>`), commit and card's licence."""

    files: tuple[str, ...]
    revision: str
    license: str | None
    split: str


def find_on_hub(
    repo: str, config: str | None, split: str, files: str | None, revision: str | None, *, attempts: int
) -> Found:
    """The data files of a split, or of a pattern of files.

    Raises:
        UserError: no such dataset, revision, configuration or split; a gated one; one that needs a script; no network.
    """
    api = _api()
    where = f"{repo}@{revision or 'main'}"
    commit = _whole_revision(api, repo, revision, where, attempts)
    info = patiently(lambda: api.dataset_info(repo, revision=commit, timeout=60), where, attempts)
    if info.gated:
        patiently(lambda: api.auth_check(repo, repo_type="dataset"), where, attempts)
    names = sorted(sibling.rfilename for sibling in info.siblings or [])
    card = info.card_data.to_dict() if info.card_data else {}
    license = card.get("license")
    license = ", ".join(license) if isinstance(license, list) else license
    if files is not None:
        fits = [name for name in names if fnmatch.fnmatch(name, files)]
        if not fits:
            raise UserError(f"{where}: no file fits {files!r}; there are {_listed(names)}")
        return Found(tuple(f"hf://datasets/{repo}@{info.sha}/{name}" for name in fits), info.sha, license, files)
    script = f"{repo.rpartition('/')[2]}.py"
    if script in names:
        raise UserError(
            f"{where}: needs its script {script}, and none is run here; use a place without one or, where the "
            "hub has converted it, revision: refs/convert/parquet with files: <config>/<split>/*.parquet"
        )
    by_split = _data_files(repo, config, info.sha, where, attempts)
    fits = sorted(name for name in by_split if fnmatch.fnmatchcase(name, split))
    if len(fits) != 1:
        said = f"{len(fits)} splits fit {split!r} ({', '.join(fits)})" if fits else f"no split {split!r}"
        raise UserError(f"{where}: {said}; there are {_listed(sorted(by_split))}")
    return Found(tuple(by_split[fits[0]]), info.sha, license, fits[0])


def is_found(file: str) -> bool:
    """Whether a path is a file of `Found`, of which `download` keeps a copy."""
    return _FILE.fullmatch(file) is not None


def download(file: str, *, attempts: int) -> str:
    """A file of `Found` on this machine: its path in the hub's cache. Raises UserError once every try has failed."""
    parts = _FILE.fullmatch(file)
    assert parts is not None, file
    repo, revision, name = parts["repo"], parts["revision"], parts["file"]
    api = _api()
    return str(
        patiently(
            lambda: api.hf_hub_download(repo, name, repo_type="dataset", revision=revision),
            f"{repo}@{revision[:12]}: {name}",
            attempts,
        )
    )


def _api() -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise _needs_packages(error) from error
    return HfApi()


def _needs_packages(error: ImportError) -> UserError:
    return UserError(f"the hub's datasets need huggingface-hub and datasets ({error}); pip install 'nvembed[cloud]'")


def _whole_revision(api: HfApi, repo: str, revision: str | None, where: str, attempts: int) -> str | None:
    """A commit given by its first digits in full; anything else as it is."""
    if revision is None or not _SHORT.fullmatch(revision):
        return revision
    commits = patiently(lambda: api.list_repo_commits(repo, repo_type="dataset"), where, attempts)
    fits = [commit.commit_id for commit in commits if commit.commit_id.startswith(revision)]
    if len(fits) != 1:
        raise UserError(f"{where}: {len(fits) or 'no'} commits begin with {revision}; give the whole commit")
    return str(fits[0])


def _data_files(repo: str, config: str | None, commit: str, where: str, attempts: int) -> dict[str, list[str]]:
    """Split → files, as `datasets` finds them from the card or from the files' names; nothing but the card is read."""
    try:
        from datasets import load_dataset_builder
    except ImportError as error:
        raise _needs_packages(error) from error
    builder = patiently(lambda: load_dataset_builder(repo, config, revision=commit), where, attempts)
    return {str(split): [str(file) for file in files] for split, files in (builder.config.data_files or {}).items()}


def patiently(act: Callable[[], Any], where: str, attempts: int) -> Any:
    """What `act` gives. What may pass is tried again, each time after twice the wait; the rest is explained at once.

    Raises UserError, which names `where`, for what no second try would change and once every try has failed.
    """
    for attempt in range(1, attempts + 1):
        try:
            return act()
        except Exception as error:  # four libraries have errors of their own here
            final = _explained(error, where)
            if final is not None:
                raise final from error
            if attempt == attempts:
                said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                raise UserError(
                    f"{where}: cannot be had from the hub, tried {attempts} times ({said[:200]}); what came is kept, "
                    "so start again when the network is back, or give data.hub_mirror"
                ) from error
            wait = FIRST_WAIT * 2 ** (attempt - 1)
            _LOG.warning("%s: %s; trying again in %.0f s (%d of %d)", where, error, wait, attempt, attempts)
            time.sleep(wait)
    raise AssertionError("attempts is at least 1")


def _explained(error: Exception, where: str) -> UserError | None:
    """The one line for what no second try would change; None for what may pass."""
    from huggingface_hub import errors as hub

    if isinstance(error, UserError):
        return error
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__) is not None:
        chain.append(inner)
    kinds = tuple(type(one) for one in chain)
    if _any(kinds, hub.GatedRepoError):
        return UserError(
            f"{where}: is gated: ask for access at https://huggingface.co/datasets/{where.partition('@')[0]} and give "
            "your token (HF_TOKEN or `hf auth login`)"
        )
    if _any(kinds, hub.RevisionNotFoundError):
        return UserError(f"{where}: has no such revision; take a commit that the dataset's page lists")
    if _any(kinds, hub.RepositoryNotFoundError):
        return UserError(f"{where}: there is no such dataset on the hub, or it is private; check its id and HF_TOKEN")
    if _any(kinds, hub.DisabledRepoError):
        return UserError(f"{where}: the hub has taken this dataset offline; use another place")
    if _any(kinds, hub.EntryNotFoundError) and not _any(kinds, hub.LocalEntryNotFoundError):
        return UserError(f"{where}: the hub lists this file but does not have it; pin another revision")
    if _any(kinds, hub.OfflineModeIsEnabled):
        return UserError(f"{where}: the hub is switched off here (HF_HUB_OFFLINE); unset it, or give data.hub_mirror")
    text = str(error)
    if isinstance(error, ValueError) and ("BuilderConfig" in text or "Config name is missing" in text):
        return UserError(f"{where}: has no such configuration ({' '.join(text.split())[:300]})")
    if isinstance(error, RuntimeError) and "scripts are no longer supported" in text:
        return UserError(f"{where}: needs a script, and none is run here ({text}); use a place without one")
    if type(error).__name__ in ("DataFilesNotFoundError", "EmptyDatasetError"):
        return UserError(f"{where}: holds no data files that can be read ({text.splitlines()[0][:200]})")
    return None


def _any(kinds: tuple[type, ...], wanted: type) -> bool:
    return any(issubclass(kind, wanted) for kind in kinds)


def _listed(names: list[str], most: int = 40) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "") if names else "none"
