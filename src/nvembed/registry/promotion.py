"""Who is champion: the rule, the hand of a person, and the way back. Who, when and why stay as tags on the version."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nvembed.core.digests import digest_text
from nvembed.core.errors import UserError
from nvembed.core.state import hold, state_folder
from nvembed.registry.versions import CHALLENGER, CHAMPION, EVALUATION_TAG, Version, aliased, list_versions
from nvembed.tracking.client import client
from nvembed.tracking.store import sqlite_file, tracking_uri

ROLLED_BACK = "nvembed.rolled_back"  # on a version that a person took back: no verdict makes it champion again


@dataclass(frozen=True)
class Decision:
    """What the gate decided about a version, and why, in one sentence."""

    promoted: bool
    reason: str


@contextmanager
def registry_lock(name: str) -> Iterator[None]:
    """One registration or promotion of a model at a time, for all that share this state folder."""
    file = sqlite_file(tracking_uri() or "")
    with hold(state_folder("registry", digest_text(f"{file or tracking_uri()} {name}"))):
        yield


def decide(version: Version, champion: Version | None, comparison: Mapping[str, Any], judged: str | None) -> Decision:
    """Whether a version becomes champion.

    Args:
        version: the one to decide about.
        champion: the present champion.
        comparison: what `comparison.json` holds; its verdict counts.
        judged: content digest of the champion's evaluation that the verdict compared with; None: it judged against
            the untrained backbone.
    """
    verdict = comparison["verdict"]
    if champion is not None and champion.version == version.version:
        return Decision(False, "It is the champion already.")
    if ROLLED_BACK in version.tags:
        return Decision(False, "It was rolled back by hand: promote it by hand to make it champion again.")
    if champion is not None and (judged is None or judged not in _evaluations(champion)):
        return Decision(
            False,
            f"The verdict did not compare with the present champion, version {champion.version}: "
            "run the comparison again, or promote it by hand.",
        )
    if champion is None and judged is not None:
        return Decision(False, "The champion it was compared with is champion no more: run the comparison again.")
    reasons = " ".join(verdict.get("reasons", []))
    return Decision(bool(verdict["passed"]), reasons or "The verdict gives no reason.")


def crown(version: Version, why: str) -> None:
    """Move the alias `champion` to a version, and write down who did it, when, why, and from whom."""
    mlflow, before = client(), aliased(version.name, CHAMPION)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    tags = {"since": now, "by": _who(), "why": why[:5000], "before": before.version if before else ""}
    for name, value in tags.items():
        mlflow.set_model_version_tag(version.name, version.version, f"nvembed.champion_{name}", value)
    mlflow.set_registered_model_alias(version.name, CHAMPION, version.version)
    if before is not None:
        mlflow.set_model_version_tag(version.name, before.version, "nvembed.champion_until", now)


def promote(name: str, version: str | int, why: str = "promoted by hand") -> Version:
    """Make a version champion by hand, whatever the gate said. Raises UserError if there is no such version."""
    with registry_lock(name):
        chosen = _named(name, str(version))
        if CHAMPION not in chosen.aliases:
            crown(chosen, why)
        if ROLLED_BACK in chosen.tags:
            client().delete_model_version_tag(name, chosen.version, ROLLED_BACK)
        return _named(name, str(version))


def rollback(name: str, why: str = "rolled back by hand") -> Version:
    """Make the champion before the present one champion again, and keep the present one from winning by itself.

    Raises UserError if there is none to go back to.
    """
    with registry_lock(name):
        present = aliased(name, CHAMPION)
        if present is None:
            raise UserError(f"model {name!r} has no champion to roll back; see `nvembed registry list`")
        earlier = present.tags.get("nvembed.champion_before")
        if not earlier:
            raise UserError(f"model {name!r}: version {present.version} is the first champion; nothing came before it")
        chosen = _named(name, earlier)
        before = chosen.tags.get("nvembed.champion_before", "")
        crown(chosen, why)
        client().set_model_version_tag(name, present.version, ROLLED_BACK, why[:5000])
        # going back twice leads two champions back, not forth again
        client().set_model_version_tag(name, chosen.version, "nvembed.champion_before", before)
        return _named(name, earlier)


def challenge(version: Version) -> None:
    """Give a version the alias `challenger`."""
    if CHALLENGER not in version.aliases:
        client().set_registered_model_alias(version.name, CHALLENGER, version.version)


def _named(name: str, number: str) -> Version:
    versions = list_versions(name)
    for version in versions:
        if version.version == number:
            return version
    known = ", ".join(version.version for version in versions) or "none"
    raise UserError(f"model {name!r} has no version {number}; known: {known}")


def _evaluations(version: Version) -> set[str]:
    return {value for key, value in version.tags.items() if key.startswith(EVALUATION_TAG)}


def _who() -> str:
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return f"uid {os.getuid()}"
