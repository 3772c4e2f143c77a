"""What the last task does: export, register as challenger, and crown if the verdict allows. Idempotent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import MANIFEST, Manifest, read_manifest
from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.core.state import state_folder
from nvembed.evaluation.report import synthetic_note
from nvembed.registry.exporting import export, model_digest
from nvembed.registry.promotion import Decision, challenge, crown, decide, registry_lock
from nvembed.registry.registering import own_evaluation, register
from nvembed.registry.versions import CHAMPION, Version, aliased, fetch_model, find_version
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
) -> dict[str, Any]:
    """Export and register a trained model, and make it champion if the comparison's verdict and the registry allow.

    The same trained tensors are the same version, however often this is called; a version that exists costs no export
    and no torch.

    Args:
        adapter: the trained stage. comparison: the verdict. results: evaluation folders, this adapter's among them.
        made: task → folder of what came before, for the card's data, licences and counts.

    Returns:
        `name`, `version`, `aliases`, `folder` (Sentence Transformers), `promoted` and `reason`, JSON values.

    Raises:
        UserError: no tracking server, or an adapter that none of `results` measured.
    """
    verdict = _read_comparison(comparison)
    judged = read_manifest(comparison, kind="comparison").inputs
    digest = model_digest(model, adapter)
    trained = read_manifest(adapter, kind="adapter")
    own = own_evaluation(results, trained.content)
    with registry_lock(registration.name):
        version = find_version(registration.name, digest)
        if version is None:
            card = _card(registration, comparison, verdict, trained, made, run_id)
            folder = state_folder("models", digest) / registration.name
            export(model, adapter, folder, card)
            version = register(registration, folder, comparison, own, _lineage(trained, verdict))
        challenge(version)
        decision = _settle(version, verdict, judged, read_manifest(own).content)
    final = find_version(registration.name, digest)
    assert final is not None
    note(f"registered {final.name} version {final.version} ({', '.join(final.aliases) or 'no alias'})")
    return {
        "name": final.name,
        "version": final.version,
        "aliases": list(final.aliases),
        "folder": str(_folder(final, digest)),
        "promoted": decision.promoted,
        "reason": decision.reason,
    }


def _settle(version: Version, verdict: Mapping[str, Any], judged: Mapping[str, str], own: str) -> Decision:
    """Crown the version, or say why not."""
    challenger = verdict["verdict"].get("challenger")
    if judged.get(str(challenger)) != own:
        return Decision(False, f"The verdict is about {challenger or 'no model'}, not about the model registered here.")
    decision = decide(version, aliased(version.name, CHAMPION), verdict, judged.get("champion"))
    if decision.promoted:
        crown(version, decision.reason)
    return decision


def _read_comparison(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
        content["verdict"]["passed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: cannot be read as a comparison ({error!r}); compare anew") from error
    return content


def _card(
    registration: Registration,
    comparison: Path,
    verdict: Mapping[str, Any],
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
        "verdict": list(verdict["verdict"].get("reasons", [])),
        "note": synthetic_note(verdict),
        "writers": (data.extra.get("synthesis") or {}).get("models") or [] if data else [],
        "sections": sections,
        "lineage": {"pipeline run": run_id, "code": trained.code, "adapter": trained.content},
    }


def _shown(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section as the card shows it: of a mix's sources, which the card lists by themselves, the names alone."""
    names = {"sources": sorted(section["sources"])} if section.get("sources") else {}
    return {**section, **names}


def _lineage(trained: Manifest, verdict: Mapping[str, Any]) -> dict[str, str]:
    return {
        "nvembed.trained_by": trained.tracking_run_id or "",
        "nvembed.dataset": trained.inputs.get("dataset", ""),
        "nvembed.backbone": str(trained.extra.get("backbone_digest") or ""),
        "nvembed.eval_sets": str(verdict.get("eval_sets") or ""),
        "nvembed.licenses": ", ".join(sorted(set(trained.licenses.values()))),
        "nvembed.judged_against": str(verdict["verdict"].get("beats") or ""),
        "nvembed.verdict": "passed" if verdict["verdict"]["passed"] else "not passed",
    }


def _folder(version: Version, digest: str) -> Path:
    """Where a person finds the Sentence Transformers folder: the artifact itself where it lies on this machine."""
    exported = state_folder("models", digest) / version.name
    if sqlite_file(tracking_uri() or "") is None:
        return exported if exported.is_dir() else fetch_model(version, exported.parent)
    shutil.rmtree(exported, ignore_errors=True)
    return fetch_model(version)
