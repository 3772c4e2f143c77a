"""What the last task does: export, register as challenger, and crown if the verdict allows. Idempotent."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import MANIFEST, Manifest, read_manifest
from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.core.state import state_folder
from nvembed.evaluation.report import synthetic_note
from nvembed.registry.champions import keep_evaluation, kept_key
from nvembed.registry.exporting import export, model_digest
from nvembed.registry.gate import Decision, Verdict, contend, read_verdict
from nvembed.registry.locks import Lock, file_lock
from nvembed.registry.records import evaluations_of
from nvembed.registry.registering import own_evaluation, register
from nvembed.registry.versions import Version, fetch_model, find_version
from nvembed.registry.waiting import promoters_command
from nvembed.tracking.client import plain_errors
from nvembed.tracking.store import sqlite_file, tracking_uri

if TYPE_CHECKING:
    from nvembed.recipe import Model, Registration


def publish(
    registration: Registration,
    model: Model,
    adapter: Path,
    comparison: Path,
    results: Sequence[Path],
    made: Mapping[str, Path],
    *,
    run_id: str = "",
    lock: Lock = file_lock,
) -> dict[str, Any]:
    """Export and register a trained model, and make it champion if the comparison's verdict and the registry allow.

    The same trained tensors are the same version, however often this is called; a version that exists costs no export
    and no torch.

    Args:
        adapter: the trained stage. comparison: the verdict. results: evaluation folders, this adapter's among them.
        made: task → folder of what came before, for the card's data, licences and counts.
        lock: keeps others from registering this model, or promoting any of its name, at the same time.

    Returns:
        `name`, `version`, `aliases`, `folder` (Sentence Transformers), `promoted` and `reason`, JSON values; where
        aliases are for promoters alone `due`, the one to give, and `promote`, a promoter's command.

    Raises:
        UserError: no tracking server, or one that goes away or takes nothing (what is done by then is not done again);
            an adapter that none of `results` measured, or one that was changed since.
    """
    verdict = read_verdict(comparison)
    trained = read_manifest(adapter, kind="adapter", verify=True)
    digest = model_digest(model, adapter)
    own = own_evaluation(results, trained.content)
    card = _card(registration, comparison, verdict, trained, made, run_id)
    with plain_errors(f"the trained model is kept in {adapter}, and nothing before this is done again"):
        with lock(f"{registration.name} {digest}"):
            version = find_version(registration.name, digest)
            if version is None:
                folder = _exported(registration, model, adapter, digest, card)
                version = register(registration, folder, comparison, own, _lineage(trained, verdict, own))
            elif kept_key(own) not in evaluations_of(version):  # an earlier try ended in between
                keep_evaluation(version, kept_key(own), own)
        decision = contend(registration, version, comparison, results, own, lock=lock)
        return _outcome(registration, digest, decision)


def _exported(registration: Registration, model: Model, adapter: Path, digest: str, card: Mapping[str, Any]) -> Path:
    """The model folder with this card; one that an earlier try left is taken as it is, if nothing in it changed."""
    folder = state_folder("models", digest) / registration.name
    with contextlib.suppress(UserError):
        if read_manifest(folder, kind="model", verify=True).extra.get("card") == digest_json(card):
            return folder
    export(model, adapter, folder, card)
    return folder


def _outcome(registration: Registration, digest: str, decision: Decision) -> dict[str, Any]:
    final = find_version(registration.name, digest)
    assert final is not None
    note(f"registered {final.name} version {final.version} ({', '.join(final.aliases) or 'no alias'})")
    waits = {"due": decision.due, "promote": promoters_command(final, decision.due)} if decision.due else {}
    if waits:
        note(f"only a promoter may make it {decision.due}: {waits['promote']}")
    return {
        "name": final.name,
        "version": final.version,
        "aliases": list(final.aliases),
        "folder": str(_folder(final, digest)),
        "promoted": decision.promoted,
        "reason": decision.reason,
        **waits,
    }


def _card(
    registration: Registration,
    comparison: Path,
    verdict: Verdict,
    trained: Manifest,
    made: Mapping[str, Path],
    run_id: str,
) -> dict[str, Any]:
    manifests = {task: read_manifest(folder) for task, folder in made.items() if (folder / MANIFEST).is_file()}
    table = comparison / "table.md"
    licenses: dict[str, str] = dict(trained.licenses)
    sections: dict[str, Any] = {}
    for task, manifest in manifests.items():
        licenses |= manifest.licenses
        sections[task] = _shown(manifest.section)
    sections["training"] = dict(trained.section)
    data = manifests.get("prepare_data")
    return {
        "name": registration.name,
        "licenses": licenses,
        "counts": {name: count for name, count in (data.counts if data else {}).items() if name.startswith("train_")},
        "instructions": dict(data.section.get("instructions") or {}) if data else {},
        "sources": list(data.extra.get("sources") or []) if data else [],
        "checked_against": (data.extra.get("decontamination") or {}).get("checked_against") if data else None,
        "table": table.read_text(encoding="utf-8") if table.is_file() else None,
        "verdict": list(verdict.reasons),
        "note": synthetic_note(json.loads((comparison / "comparison.json").read_text(encoding="utf-8"))),
        "writers": (data.extra.get("synthesis") or {}).get("models") or [] if data else [],
        "sections": sections,
        "lineage": {"pipeline run": run_id, "code": trained.code, "adapter": trained.content},
    }


def _shown(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section as the card shows it: of a mix's sources, which the card lists by themselves, the names alone."""
    names = {"sources": sorted(section["sources"])} if section.get("sources") else {}
    return {**section, **names}


def _lineage(trained: Manifest, verdict: Verdict, own: Path) -> dict[str, str]:
    return {
        "nvembed.trained_by": trained.tracking_run_id or "",
        "nvembed.trained_with": trained.code,
        "nvembed.dataset": trained.inputs.get("dataset", ""),
        "nvembed.backbone": str(trained.extra.get("backbone_digest") or ""),
        "nvembed.eval_sets": read_manifest(own, kind="evaluation").inputs.get("eval_sets", ""),
        "nvembed.licenses": ", ".join(sorted(set(trained.licenses.values()))),
        "nvembed.judged_against": verdict.beats,
        "nvembed.verdict": "passed" if verdict.passed else "not passed",
    }


def _folder(version: Version, digest: str) -> Path:
    """Where a person finds the Sentence Transformers folder: the artifact itself where it lies on this machine."""
    exported = state_folder("models", digest) / version.name
    if sqlite_file(tracking_uri() or "") is None:
        return exported if exported.is_dir() else fetch_model(version, exported.parent)
    shutil.rmtree(exported, ignore_errors=True)
    return fetch_model(version)
