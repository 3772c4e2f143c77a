"""The task that writes synthetic data, and the teacher it sifts with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.recipe import Data, Mining, Resources, Synthesis, section_from_json
from nvembed.steps.places import whole_path
from nvembed.steps.task import copy_report, task

if TYPE_CHECKING:
    import numpy as np

    from nvembed.recipe import Recipe


def synthesize_data(synthesis: str, dataset: str, eval_sets: str, report: str | None = None) -> None:
    """Examples and held-out sets that language models write, if the section is on; else empty folders."""
    from nvembed.synthesis import synthesize

    section = section_from_json(Synthesis, synthesis)
    told = section.model_dump(mode="json") if section.enabled else None
    with task("synthesize_data", told, made=[dataset]) as run:
        synthesize(section, Path(dataset), Path(eval_sets), embed=Teacher(section))
        if section.enabled:
            made = read_manifest(dataset)
            if (spent := made.headline.get("data.synthetic_cost")) is not None:
                run.usage["llm_cost"] = spent
            run.log_dataset("synthetic", made)
            run.log_folder(Path(dataset))
        copy_report(Path(dataset), report)


def resolved_synthesis(recipe: Recipe, mining: Mining) -> Synthesis:
    """The section with all in it that other sections decide, so that the task needs no other one.

    `mining`: the recipe's, with its models' digests. Raises UserError for what would end the run later.
    """
    from nvembed.synthesis import check_synthesis

    section = recipe.synthesis
    if not section.enabled:
        return section
    section = with_defaults(section, recipe.data, mining, recipe.resources)
    if section.quality.round_trip.enabled:
        section = _with_checked_teacher(section, own=recipe.synthesis.quality.round_trip.teacher is not None)
    return section.model_copy(update={"digest": check_synthesis(section) or None})


def has_documents_alone(section: Synthesis, data: Data) -> bool:
    """Whether `data.path` names documents, and there are no pairs of the user's own."""
    return section.enabled and section.from_documents and section.documents is None and data.source == "file"


def has_synthetic_sets(section: Synthesis) -> bool:
    """Whether held-out sets are made of documents."""
    return section.enabled and section.from_documents and bool(section.held_out.dev or section.held_out.test)


def with_defaults(section: Synthesis, data: Data, mining: Mining, resources: Resources) -> Synthesis:
    """The section with documents, sentence, licence and teacher from the other sections where it names none."""
    alone = has_documents_alone(section, data)
    trip = section.quality.round_trip
    trip = trip.model_copy(
        update={"teacher": trip.teacher or mining.teacher, "device": trip.device or resources.device}
    )
    return section.model_copy(
        update={
            "documents": whole_path(data.path if alone else section.documents),
            "alone": alone,
            "instruction": section.instruction or data.instructions["retrieval"],
            "license": section.license or data.license,
            "quality": section.quality.model_copy(update={"round_trip": trip}),
        }
    )


def _with_checked_teacher(section: Synthesis, *, own: bool) -> Synthesis:
    """The section with the digest of the round trip's model. `own`: it is not mining's."""
    from nvembed.mining.teachers import check_teacher

    trip = section.quality.round_trip
    assert trip.teacher is not None
    if trip.teacher.kind != "model":
        raise UserError(
            f"synthesis.quality.round_trip: {'its teacher' if own else 'mining.teacher'} is BM25 and has no vectors; "
            "give synthesis.quality.round_trip.teacher a model, or set synthesis.quality.round_trip.enabled=false"
        )
    trip = trip.model_copy(update={"teacher": check_teacher(trip.teacher)})
    return section.model_copy(update={"quality": section.quality.model_copy(update={"round_trip": trip})})


class Teacher:
    """The round trip's teacher, loaded when it is first asked."""

    def __init__(self, section: Synthesis) -> None:
        self._trip = section.quality.round_trip

    def __call__(self, texts: Sequence[str], *, queries: bool) -> np.ndarray:
        """(n, dim) vectors of norm 1, kept in the state, as the teacher's own card says."""
        from nvembed.encoding import encode_cached
        from nvembed.mining.dense import load_teacher
        from nvembed.mining.teachers import device_of

        teacher = self._trip.teacher
        assert teacher is not None
        if not hasattr(self, "_model"):
            self._model = load_teacher(teacher, device_of(Resources(device=self._trip.device or "auto")))
        prefix = teacher.query_prefix if queries else teacher.document_prefix
        label = "embedding queries" if queries else "embedding passages"
        return encode_cached(self._model, [prefix + text for text in texts], label=label)
