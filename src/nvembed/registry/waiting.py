"""Where MLflow leaves aliases to promoters (`tracking.guard`): which one is due to a version, and who may give it."""

from __future__ import annotations

from nvembed.registry.records import PASSED, UNTRAINED, Record, evaluations_of, read_records
from nvembed.registry.versions import CHALLENGER, CHAMPION, Version, aliased, list_versions
from nvembed.tracking.client import client

DUE_TAG = "nvembed.due"  # on a version: the alias that its run was not allowed to set, and a promoter's command


def due(version: Version) -> str:
    """The alias that a promoter is asked to give a version; empty if none."""
    return version.tags.get(DUE_TAG, "").partition(":")[0]


def promoters_command(version: Version, alias: str) -> str:
    """What a promoter types."""
    option = " --challenger" if alias == CHALLENGER else ""
    return f"MLFLOW_TRACKING_USERNAME=promoter nvembed registry promote {version.name} {version.version}{option}"


def leave(version: Version, alias: str) -> None:
    """Ask a promoter for an alias. The newest challenger's wish takes the place of those before it."""
    for other in list_versions(version.name):
        if other.version != version.version and due(other) == CHALLENGER:
            settle(other)
    text = f"{alias}: {promoters_command(version, alias)}"
    client().set_model_version_tag(version.name, version.version, DUE_TAG, text)


def settle(version: Version) -> None:
    """Nothing is due to a version any more."""
    if DUE_TAG in version.tags:
        client().delete_model_version_tag(version.name, version.version, DUE_TAG)


def verdict_of(version: Version) -> Record | None:
    """The gate's verdict by which a version that waits is to become champion; None if it waits for nothing such."""
    if due(version) != CHAMPION:
        return None
    return next((one for one in reversed(read_records(version)) if one.what == PASSED), None)


def objection(version: Version) -> str:
    """Why the gate's verdict on a version that waits no longer holds; empty if it does, or if there is none.

    The gate's own rule: a verdict counts against the champion it was reached against, and no other.
    """
    verdict, present = verdict_of(version), aliased(version.name, CHAMPION)
    if verdict is None or (present is None and verdict.against == UNTRAINED):
        return ""
    if present is None:
        return f"it passed against version {verdict.against}, which is champion no more"
    if verdict.evaluation in evaluations_of(present).values():
        return ""
    rival = "the untrained backbone" if verdict.against == UNTRAINED else f"version {verdict.against}"
    return f"it passed against {rival}, and version {present.version} is champion now"
