"""Who is champion: the change itself, the hand of a person, and the way back. Who, when and why stay as tags."""

from __future__ import annotations

from nvembed.core.errors import UserError
from nvembed.registry.locks import Lock, file_lock
from nvembed.registry.records import PROMOTED, TAKEN_BACK, now, record, who
from nvembed.registry.versions import CHALLENGER, CHAMPION, Version, aliased, check_files, named
from nvembed.registry.waiting import due, objection, promoters_command, settle, verdict_of
from nvembed.tracking.client import client, is_refusal

BY_HAND = "promoted by hand"
ROLLED_BACK = "nvembed.rolled_back"  # on a version that a person took back: no verdict makes it champion again


def crown(version: Version, why: str, *, against: str = "", evaluation: str = "") -> None:
    """Move the alias `champion` to a version, and write down who did it, when, why, and from whom.

    `against` and `evaluation` say what it was judged against (see `records.Record`). The caller holds the lock.

    Raises UserError if that is for promoters alone; then nothing is written down.
    """
    from mlflow.exceptions import MlflowException

    mlflow, before = client(), aliased(version.name, CHAMPION)
    moment = now()
    tags = {"since": moment, "by": who(), "why": why[:5000], "before": before.version if before else ""}
    for name, value in tags.items():
        mlflow.set_model_version_tag(version.name, version.version, f"nvembed.champion_{name}", value)
    record(version, PROMOTED, why, against=against, evaluation=evaluation)
    try:
        mlflow.set_registered_model_alias(version.name, CHAMPION, version.version)
    except MlflowException as error:
        if is_refusal(error):
            _as_it_was(version)
            raise UserError(
                f"{who()} may not decide who is champion of {version.name!r}, a promoter may: "
                + promoters_command(version, CHAMPION)
            ) from error
        raise
    if before is not None:
        mlflow.set_model_version_tag(version.name, before.version, "nvembed.champion_until", moment)
    settle(version)


def _as_it_was(version: Version) -> None:
    """Take back what was written on a version since it was read."""
    for name, value in named(version.name, version.version).tags.items():
        if name not in version.tags:
            client().delete_model_version_tag(version.name, version.version, name)
        elif value != version.tags[name]:
            client().set_model_version_tag(version.name, version.version, name, version.tags[name])


def promote(name: str, version: str | int, why: str = "", *, lock: Lock = file_lock) -> Version:
    """Make a version champion by hand: with a reason `why`, or if it waits for nothing, whatever the gate said.

    A version that passed the gate and waits for a promoter becomes champion by that verdict, if it still holds.

    Raises UserError if it holds no more, if there is no such version, if its files are not those that were registered,
    or if we are no promoter.
    """
    with lock(name) as held:
        chosen = named(name, str(version))
        if CHAMPION not in chosen.aliases:
            verdict = None if why else verdict_of(chosen)
            if verdict is not None and (no_more := objection(chosen)):
                raise UserError(
                    f"{name} version {version}: {no_more}; submit its run again, which judges it anew, "
                    "or promote it in spite of that with --why"
                )
            check_files(chosen)
            held()
            if verdict is not None:
                crown(chosen, verdict.why, against=verdict.against, evaluation=verdict.evaluation)
            else:
                crown(chosen, why or BY_HAND)
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


def challenge(version: Version) -> bool:
    """Give a version the alias `challenger`; False if MLflow lets only promoters set aliases, and we are none.

    One that carries it is given it all the same: that is how we learn what we may.
    """
    from mlflow.exceptions import MlflowException

    try:
        client().set_registered_model_alias(version.name, CHALLENGER, version.version)
    except MlflowException as error:
        if is_refusal(error):
            return False
        raise
    return True


def make_challenger(name: str, version: str | int, *, lock: Lock = file_lock) -> Version:
    """Give a version the alias `challenger` by hand. Raises UserError: no such version, or we are no promoter."""
    with lock(name):
        chosen = named(name, str(version))
        if not challenge(chosen):
            raise UserError(
                f"{who()} may not decide who is challenger of {name!r}, a promoter may: "
                + promoters_command(chosen, CHALLENGER)
            )
        if due(chosen) == CHALLENGER:
            settle(chosen)
        return named(name, str(version))
