"""Challenger → gate → champion. A verdict counts against the champion it was reached against, and no other.

Comparing takes its time, so it is done without the lock. Under the lock one asks who is champion now: if it is the one
that the verdict names, the challenger is crowned or refused; if not, it is refused for that reason, judged again
against the new champion from the evaluations that both keep, and comes back. Each time round someone else was crowned,
so it ends.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.core.artifacts import read_manifest
from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.core.state import state_folder
from nvembed.registry.champions import Champion, champion, kept_key
from nvembed.registry.locks import Lock, file_lock
from nvembed.registry.promotion import ROLLED_BACK, challenge, crown
from nvembed.registry.records import PASSED, REFUSED, UNTRAINED, evaluations_of, record
from nvembed.registry.versions import CHALLENGER, CHAMPION, Version, find_version
from nvembed.registry.waiting import leave, settle
from nvembed.tracking.client import client
from nvembed.tracking.courier import log_folder

if TYPE_CHECKING:
    from nvembed.recipe import Evaluation, Registration

logger = logging.getLogger(__name__)
_WHOEVER_THE_RIVAL_IS = ("contamination", "limit")  # conditions that a second comparison has not the means to look into


@dataclass(frozen=True)
class Decision:
    """What the gate decided about a version, and why.

    `stale`: it is no champion only because another is champion than was judged. `due`: the alias that only a promoter
    may give it.
    """

    promoted: bool
    reason: str
    stale: bool = False
    due: str = ""


@dataclass(frozen=True)
class Verdict:
    """A comparison folder as the gate reads it.

    Attributes:
        passed: whether the challenger is better, as the recipe asks for it. reasons: why, a sentence each.
        beats: `champion` or `base`, the rival's name there.
        challenger: the challenger's name there. evaluations: name → content digest of the evaluation.
        barred: what speaks against the challenger whoever the rival is, a sentence each.
    """

    passed: bool
    reasons: tuple[str, ...]
    beats: str
    challenger: str
    evaluations: dict[str, str]
    barred: tuple[str, ...] = ()

    @property
    def rival(self) -> str:
        """Content digest of the rival's evaluation; empty if it was not measured."""
        return self.evaluations.get(self.beats, "")

    @property
    def champion(self) -> str | None:
        """Content digest of the champion's evaluation; None: it judged against the untrained backbone."""
        return self.evaluations.get("champion")


def read_verdict(folder: Path) -> Verdict:
    """Read a comparison folder. Raises UserError if it is none or was changed."""
    manifest = read_manifest(folder, kind="comparison", verify=True)
    try:
        content = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["verdict"]
        return Verdict(
            passed=bool(content["passed"]),
            reasons=tuple(content.get("reasons") or ["The verdict gives no reason."]),
            beats=str(content.get("beats") or ""),
            challenger=str(content.get("challenger") or ""),
            evaluations=dict(manifest.inputs),
            barred=tuple(
                one["says"]
                for one in content.get("conditions") or []
                if one["kind"] in _WHOEVER_THE_RIVAL_IS and one["passed"] is False
            ),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: cannot be read as a comparison ({error!r}); compare anew") from error


def decide(version: Version, present: Version | None, verdict: Verdict, own: str) -> Decision:
    """Whether a version becomes champion.

    Args:
        version: the one to decide about. own: content digest of its evaluation.
        present: the present champion.
    """
    if present is not None and present.version == version.version:
        return Decision(False, "It is the champion already.")
    if verdict.evaluations.get(verdict.challenger) != own:
        about = verdict.challenger or "no model"
        return Decision(False, f"The verdict is about {about}, not about the model registered here.")
    if ROLLED_BACK in version.tags:
        return Decision(False, "It was rolled back by hand: promote it by hand to make it champion again.")
    if present is None and verdict.champion is not None:
        return Decision(False, "The champion it was compared with is champion no more.", stale=True)
    if present is not None and verdict.champion not in evaluations_of(present).values():
        return Decision(
            False, f"It was not compared with version {present.version}, which is champion now.", stale=True
        )
    return Decision(verdict.passed, " ".join(verdict.reasons))


def contend(
    registration: Registration,
    version: Version,
    comparison: Path,
    results: Sequence[Path],
    own: Path,
    *,
    lock: Lock = file_lock,
) -> Decision:
    """Make a version champion if it may be, against whoever is champion at that moment; every refusal is recorded.

    Where this account may set no alias, the verdict is recorded all the same, and what is due is left to a promoter.

    Args:
        version: the challenger. own: its evaluation folder.
        comparison: the verdict on it. results: evaluation folders, its own and the untrained backbone's among them.

    Raises:
        UserError: a folder that was changed since it was made.
    """
    digest = read_manifest(own, kind="evaluation", verify=True).content
    barred = read_verdict(comparison).barred
    while True:
        verdict = read_verdict(comparison)
        with lock(registration.name) as held:
            present = champion(registration.name)
            fresh = find_version(registration.name, version.digest) or version
            may = challenge(fresh)
            decision = decide(fresh, present.version if present else None, verdict, digest)
            if decision.promoted and barred:
                decision = Decision(False, " ".join(barred))
            held()
            if may and decision.promoted:
                crown(fresh, decision.reason, against=_against(present), evaluation=verdict.rival)
            elif present is None or present.version.version != fresh.version:
                judged = "" if decision.stale else verdict.rival
                what = PASSED if decision.promoted else REFUSED
                record(fresh, what, decision.reason, against=_against(present), evaluation=judged)
            if not may:
                decision = _left_to_a_promoter(fresh, decision)
            elif not decision.promoted:
                settle(fresh)
        if not decision.stale:
            return decision
        note(f"{version.name} version {version.version}: {decision.reason} Judging it again")
        again = _judge_again(registration, version, comparison, results, own, present)
        if isinstance(again, Decision):
            with lock(registration.name):
                fresh = find_version(registration.name, version.digest) or version
                record(fresh, REFUSED, again.reason, against=_against(present))
            return replace(again, due=decision.due)
        comparison = again


def _left_to_a_promoter(version: Version, decision: Decision) -> Decision:
    """Write down which alias is due; the aliases stay as they are."""
    alias = CHAMPION if decision.promoted else CHALLENGER
    if alias in version.aliases or CHAMPION in version.aliases:
        settle(version)
        return decision
    leave(version, alias)
    return replace(decision, promoted=False, due=alias)


def _against(present: Champion | None) -> str:
    return present.version.version if present is not None else UNTRAINED


def _judge_again(
    registration: Registration,
    version: Version,
    comparison: Path,
    results: Sequence[Path],
    own: Path,
    present: Champion | None,
) -> Path | Decision:
    """A new comparison folder, with the present champion as rival; a refusal where there can be none."""
    from nvembed.evaluation import compare

    rival = None
    if present is not None:
        number = present.version.version
        try:
            rival = present.evaluation_folder(kept_key(own))
        except Exception as error:  # its files, its server: whatever it is, this challenger is not to blame
            logger.warning("the champion's evaluation cannot be fetched", exc_info=True)
            return Decision(
                False,
                f"The evaluation of the present champion, version {number}, cannot be fetched "
                f"({type(error).__name__}): run the comparison again, or promote it by hand.",
            )
        if rival is None:
            return Decision(
                False,
                f"The present champion, version {number}, was not measured on these eval sets: "
                "run the comparison again, or promote it by hand.",
            )
    evaluation = _section(comparison)
    name = digest_json([version.digest, present.digest if present else "", read_manifest(comparison).content])
    out = state_folder("gate", name) / "comparison"
    try:
        compare(evaluation, registration, results, out, champion=rival)
    except UserError as error:
        return Decision(False, f"It cannot be compared with the present champion: {error}")
    log_folder(client(), version.run, out, f"comparison/against-{_against(present)}")
    return out


def _section(comparison: Path) -> Evaluation:
    from nvembed import recipe

    section: Evaluation = recipe.Evaluation.model_validate(read_manifest(comparison).section["evaluation"])
    return section
