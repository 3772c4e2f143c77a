"""The present champion, and how it does on the eval sets at hand."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.core.artifacts import read_manifest
from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.core.state import hold, state_folder
from nvembed.registry.records import evaluations_of
from nvembed.registry.versions import (
    ADAPTER_TAG,
    CHAMPION,
    EVALUATION_TAG,
    Version,
    aliased,
    fetch,
    fetch_model,
)
from nvembed.tracking.client import client, prepare_mlflow
from nvembed.tracking.store import tracking_uri

if TYPE_CHECKING:
    from nvembed.recipe import Evaluation, Registration, Resources

logger = logging.getLogger(__name__)
# who is measured, trained on what, in how many pieces, what is made of the scores: no score depends on these
_NO_MATTER = {
    "candidates",
    "shards",
    "trained_on",
    "batch_tokens",
    "vector_cache_gb",
    "bootstrap_samples",
    "confidence",
}


@dataclass(frozen=True)
class Champion:
    """The present champion, and the keys of the eval sets it was measured on."""

    version: Version
    evaluations: dict[str, str]

    @property
    def digest(self) -> str:
        """The model by content."""
        return self.version.digest

    def model_folder(self) -> Path:
        """Its Sentence Transformers folder, fetched if it lies elsewhere."""
        return fetch_model(self.version, _download_folder("model", self.digest))

    def evaluation_folder(self, key: str) -> Path | None:
        """Its evaluation folder on the eval sets of `key`, fetched if it lies elsewhere; None if never measured."""
        if key not in self.evaluations:
            return None
        uri = f"runs:/{self.version.run}/evaluations/{key}"
        return fetch(uri, _download_folder("evaluation", f"{self.digest} {key}"))


def champion(name: str) -> Champion | None:
    """The champion of a model; None without one, or without a tracking server."""
    if tracking_uri() is None:
        return None
    version = aliased(name, CHAMPION)
    if version is None:
        return None
    return Champion(version, evaluations_of(version))


def evaluation_key(evaluation: Evaluation, eval_sets: str) -> str:
    """Names what was measured: the eval sets' content and all of the section that decides a score.

    Equal keys can be compared in pairs.
    """
    section = evaluation.model_dump(mode="json", exclude=_NO_MATTER)
    section["splits"] = sorted(section["splits"])
    for one in (section.get("own") or {}).values():
        if one.get("digest"):
            del one["path"]  # the same set may lie elsewhere
    return digest_json([eval_sets, section])[:16]


def kept_key(folder: Path) -> str:
    """The key of what an evaluation folder measured."""
    from nvembed.recipe import Evaluation

    manifest = read_manifest(folder, kind="evaluation")
    section: Evaluation = Evaluation.model_validate(manifest.section)
    return evaluation_key(section, manifest.inputs["eval_sets"])


def champion_results(
    registration: Registration,
    evaluation: Evaluation,
    resources: Resources,
    eval_sets: Path,
    results: Sequence[Path] = (),
) -> Path | None:
    """The champion's evaluation folder on these very eval sets: as kept with its version, or measured now.

    None if there is no champion, or if it is one of the models in `results` (evaluation folders): then there is
    nothing to beat but what it had to beat itself. None too, with a note, for a champion that can no longer be fetched
    or loaded: a run's own models are still worth comparing, and without its scores nothing takes its place.
    """
    present = champion(registration.name)
    if present is None:
        return None
    adapters = {read_manifest(folder, kind="evaluation").inputs.get("adapter") for folder in results}
    if present.version.tags.get(ADAPTER_TAG) in adapters - {None}:
        logger.info("%s version %s is the model at hand", present.version.name, present.version.version)
        return None
    key = evaluation_key(evaluation, read_manifest(eval_sets, kind="eval").content)
    try:
        kept = present.evaluation_folder(key)
        return kept if kept is not None else _measure(present, key, evaluation, resources, eval_sets)
    except Exception as error:  # its files, its code, its server: whatever it is, this run is not to blame
        logger.warning("the champion cannot be measured", exc_info=True)
        note(
            f"the champion, version {present.version.version}, cannot be measured ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); it stays champion until one is promoted by hand"
        )
        return None


def keep_evaluation(version: Version, key: str, folder: Path) -> None:
    """Keep an evaluation folder with a version, for the comparisons of its successors."""
    mlflow = client()
    mlflow.log_artifacts(version.run, str(folder), f"evaluations/{key}")
    content = read_manifest(folder, kind="evaluation").content
    mlflow.set_model_version_tag(version.name, version.version, f"{EVALUATION_TAG}{key}", content)


def _measure(present: Champion, key: str, evaluation: Evaluation, resources: Resources, eval_sets: Path) -> Path:
    """The champion on eval sets it has not seen."""
    import torch

    from nvembed.evaluation.running import evaluate_model
    from nvembed.modeling import NVEmbedModel

    note(f"the champion, version {present.version.version}, was never measured on these eval sets: measuring it now")
    state = state_folder("champion", digest_json([present.digest, key]))
    with hold(state):
        out = state / "evaluation"
        gpu = resources.device != "cpu" and torch.cuda.is_available()
        model = NVEmbedModel.from_pretrained(present.model_folder(), device="cuda" if gpu else "cpu")
        evaluate_model(CHAMPION, model, evaluation, eval_sets, out, digest=present.digest)
        keep_evaluation(present.version, key, out)
        return out


def _download_folder(what: str, digest: str) -> Path | None:
    """Where to download to: the state folder; None where artifacts are local files, which are used in place."""
    prepare_mlflow()
    uri = tracking_uri() or ""
    if uri.startswith("sqlite:"):
        return None
    if not uri:
        raise UserError("MLFLOW_TRACKING_URI is not set; name an MLflow server or sqlite:///<file>")
    return state_folder(f"registry-{what}", digest_json(digest))
