"""Who is champion: the change itself, the hand of a person, and the way back. Who, when and why stay as tags."""

from __future__ import annotations

from nvembed.core.errors import UserError
from nvembed.registry.locks import Lock, file_lock
from nvembed.registry.records import PROMOTED, TAKEN_BACK, now, record, who
from nvembed.registry.versions import CHALLENGER, CHAMPION, Version, aliased, check_files, named
from nvembed.tracking.client import client

ROLLED_BACK = "nvembed.rolled_back"  # on a version that a person took back: no verdict makes it champion again


def crown(version: Version, why: str, *, against: str = "", evaluation: str = "") -> None:
    """Move the alias `champion` to a version, and write down who did it, when, why, and from whom.

    `against` and `evaluation` say what it was judged against (see `records.Record`). The caller holds the lock.
    """
    mlflow, before = client(), aliased(version.name, CHAMPION)
    moment = now()
    tags = {"since": moment, "by": who(), "why": why[:5000], "before": before.version if before else ""}
    for name, value in tags.items():
        mlflow.set_model_version_tag(version.name, version.version, f"nvembed.champion_{name}", value)
    record(version, PROMOTED, why, against=against, evaluation=evaluation)
    mlflow.set_registered_model_alias(version.name, CHAMPION, version.version)
    if before is not None:
        mlflow.set_model_version_tag(version.name, before.version, "nvembed.champion_until", moment)


def promote(name: str, version: str | int, why: str = "promoted by hand", *, lock: Lock = file_lock) -> Version:
    """Make a version champion by hand, whatever the gate said.

    Raises UserError if there is no such version, or if its files are not those that were registered.
    """
    with lock(name) as held:
        chosen = named(name, str(version))
        if CHAMPION not in chosen.aliases:
            check_files(chosen)
            held()
            crown(chosen, why)
        if ROLLED_BACK in chosen.tags:
            client().delete_model_version_tag(name, chosen.version, ROLLED_BACK)
        return named(name, str(version))


def rollback(name: str, why: str = "rolled back by hand", *, lock: Lock = file_lock) -> Version:
    """Make the champion before the present one champion again, and keep the present one from winning by itself.

    Raises UserError if there is none to go back to, or if its files are not those that were registered.
    """
    with lock(name) as held:
        present = aliased(name, CHAMPION)
        if present is None:
            raise UserError(f"model {name!r} has no champion to roll back; see `nvembed registry list`")
        earlier = present.tags.get("nvembed.champion_before")
        if not earlier:
            raise UserError(f"model {name!r}: version {present.version} is the first champion; nothing came before it")
        chosen = named(name, earlier)
        check_files(chosen)
        before = chosen.tags.get("nvembed.champion_before", "")
        held()
        crown(chosen, why)
        record(present, TAKEN_BACK, why)
        client().set_model_version_tag(name, present.version, ROLLED_BACK, why[:5000])
        # going back twice leads two champions back, not forth again
        client().set_model_version_tag(name, chosen.version, "nvembed.champion_before", before)
        return named(name, earlier)


def challenge(version: Version) -> None:
    """Give a version the alias `challenger`."""
    if CHALLENGER not in version.aliases:
        client().set_registered_model_alias(version.name, CHALLENGER, version.version)
