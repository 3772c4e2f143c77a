"""The whole way: documents and models to a dataset folder and an eval folder, and what that would cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.core.artifacts import output_folder
from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.core.state import hold, state_folder
from nvembed.synthesis.answers import Answers
from nvembed.synthesis.asking import Asker
from nvembed.synthesis.candidate import RETRIEVAL, Candidate
from nvembed.synthesis.documents import Documents, Passage, read_documents
from nvembed.synthesis.filters import (
    Embed,
    clean_negatives,
    language_identifier,
    measure_leakage,
    refuse_duplicates,
    refuse_languages,
    refuse_shapes,
    round_trip,
)
from nvembed.synthesis.from_documents import chosen_passages
from nvembed.synthesis.gathering import gather
from nvembed.synthesis.held_out import LEFT_OUT, split_passages
from nvembed.synthesis.judging import judge_requests, read_judgements
from nvembed.synthesis.planning import Part, plan_parts
from nvembed.synthesis.report import Findings, write_report
from nvembed.synthesis.writing import write_folders, write_nothing

if TYPE_CHECKING:
    from nvembed.recipe import Synthesis

FORMAT = 1


@dataclass(frozen=True)
class _Material:
    """Passages by split, and those that are asked about."""

    documents: Documents
    split: dict[str, str]
    asked: list[Passage]

    def of(self, split: str) -> list[Passage]:
        return [passage for passage in self.documents.passages if self.split[passage.id] == split]


def check_synthesis(section: Synthesis) -> str:
    """The digest of the documents, read through. Raises UserError for what would end a run later."""
    try:
        import openai  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"synthesis: package {error.name} is not installed; pip install 'nvembed[synthesis]'"
        ) from error
    if section.quality.language:
        language_identifier()
    return _material(section).documents.digest


def plan(section: Synthesis) -> list[Part]:
    """What a run would ask, by kind of request. Reads documents and what is answered already; asks nothing."""
    material = _material(section)
    return plan_parts(section, material.asked, Answers(_folder(section), look=True).keys())


def synthesize(section: Synthesis, dataset_out: Path, eval_out: Path, *, embed: Embed | None = None) -> None:
    """Write the dataset folder and the eval folder; both appear whole or not at all. Off, they hold a manifest alone.

    Args:
        section: with `documents`, `instruction` and `license` filled in.
        embed: the teacher of the round trip; needed where that is on.

    Answers stay in the state: started again, the run asks for what is missing.

    Raises:
        UserError: documents without text or changed since the recipe was resolved, an endpoint that refuses the key or
            the model or is gone for too long, or too few examples in the end.
    """
    with output_folder(dataset_out) as dataset, output_folder(eval_out) as eval_sets:
        if not section.enabled:
            write_nothing(section, dataset, eval_sets)
            return
        material = _material(section)
        with _answers(section) as answers:
            findings = _write_and_sift(section, material, answers, embed)
        passages = {split: material.of(split) for split in ("train", "dev", "test")}
        splits = _splits_or_refuse(section, findings)
        digest = material.documents.digest
        counts = write_folders(section, findings, passages, splits, dataset, eval_sets, digest)
    said = ", ".join(
        f"{counts.get(f'{split}_{RETRIEVAL}_queries', 0)} queries for {split}" for split in ("dev", "test")
    )
    note(
        f"synthetic data: {counts['train_examples']:,} examples to train on, {said}; "
        f"{sum(findings.refused.values()):,} refused; {findings.spent.tokens:,} tokens"
        + (f", cost {findings.spent.cost:.4f}" if findings.priced else "")
    )


def _material(section: Synthesis) -> _Material:
    if not section.from_documents:
        return _Material(Documents([], 0, ""), {}, [])
    if section.documents is None:
        raise UserError(
            "synthesis: no documents are named; set synthesis.documents or data.path to a folder, or "
            "synthesis.from_documents=false for the paper's tasks alone"
        )
    documents = read_documents(section)
    if section.digest is not None and section.digest != documents.digest:
        raise UserError(
            f"synthesis.digest: {section.documents} changed since the recipe was resolved; start the run anew"
        )
    split = split_passages(documents.passages, section)
    usable = [passage for passage in documents.passages if split[passage.id] != LEFT_OUT]
    if not any(split[passage.id] == "train" for passage in usable):
        raise UserError(
            f"synthesis.documents: {section.documents}: has {len(documents.passages)} passages, too few to hold some "
            "out and train on others; give more text, or lower synthesis.held_out and synthesis.passages.words"
        )
    return _Material(documents, split, chosen_passages(usable, section))


@contextmanager
def _answers(section: Synthesis) -> Iterator[Answers]:
    with hold(folder := _folder(section)):
        yield Answers(folder)


def _folder(section: Synthesis) -> Path:
    """Where answers are kept: the same for changed documents, so that only what changed is asked about."""
    served = sorted({(endpoint.base_url, endpoint.model) for endpoint in section.endpoints})
    return state_folder("synthesis", digest_json([FORMAT, section.documents if section.from_documents else "", served]))


def _write_and_sift(section: Synthesis, material: _Material, answers: Answers, embed: Embed | None) -> Findings:
    asker, quality = Asker(section, answers), section.quality
    gathered = gather(section, asker, material.asked, material.split)
    candidates = gathered.candidates
    refuse_shapes(candidates, quality)
    clean_negatives([one for one in candidates if one.passage], quality)
    clean_negatives([one for one in candidates if not one.passage], quality, needed=True)
    if quality.language:
        refuse_languages(candidates)
    refuse_duplicates(candidates, quality.near_copies)
    measure_leakage(candidates, quality.max_leakage)
    if quality.round_trip.enabled and candidates:
        if embed is None:
            raise UserError("synthesis.quality.round_trip: no teacher is at hand; name one or set enabled=false")
        round_trip(candidates, material.documents.passages, quality.round_trip.rank, embed)
    not_judged = _judge(section, asker, candidates) if quality.judge.enabled else 0
    passages = Counter(material.split.values())
    return Findings(
        candidates=candidates,
        requests=gathered.requests,
        failures=gathered.failures,
        unusable=gathered.unusable,
        spent=asker.budget.spent,
        priced=all(endpoint.priced for endpoint in section.endpoints),
        stopped=asker.budget.reached,
        passages={name: passages[name] for name in ("train", "dev", "test", LEFT_OUT) if passages[name]},
        skipped=material.documents.skipped,
        not_judged=not_judged,
    )


def _judge(section: Synthesis, asker: Asker, candidates: list[Candidate]) -> int:
    asked = judge_requests(section, candidates)
    answers = asker.ask([request for request, _ in asked], "judging")
    return read_judgements(section, asked, answers)


def _splits_or_refuse(section: Synthesis, findings: Findings) -> list[str]:
    """The held-out splits that have enough queries. Raises UserError if too little came out; the report is kept."""
    counts = Counter(one.split for one in findings.accepted)
    held, least = section.held_out, section.held_out.min_queries
    wanted = {"dev": (held.dev, -(-least // 2)), "test": (held.test, least)}
    enough = [name for name, (share, need) in wanted.items() if share and counts[name] >= need]
    missing = [
        f"{counts[name]} queries for {name}, {need} are needed"
        for name, (share, need) in wanted.items()
        if share and counts[name] < need
    ]
    if counts["train"] and not (section.alone and missing):
        if section.from_documents:
            for line in missing:
                note(f"synthetic data: {line}: this set is left out")
        return enough
    folder = _folder(section)
    write_report(folder, section, findings)
    said = (
        "; ".join(missing) if counts["train"] else f"none of {findings.requests} requests gave an example to train on"
    )
    budget = f"; the run stopped at its budget, {findings.stopped}" if findings.stopped else ""
    mend = ["raise the budget"] if findings.stopped else []
    mend += ["lower synthesis.held_out.min_queries"] if counts["train"] else []
    raise UserError(
        f"synthesis: {said}{budget} ({findings.reasons()}); the report is {folder / 'report.html'}; answers are kept: "
        f"{' or '.join([*mend, 'mend what it shows'])}, and start again"
    )
