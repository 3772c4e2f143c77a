"""What was accepted as a dataset folder and an eval folder, in the shapes that `data.prepare` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.core.artifacts import write_file, write_manifest
from nvembed.data.evalsets import SYNTHETIC, write_retrieval
from nvembed.data.example import Example, Pair
from nvembed.data.store import write_corpus, write_examples, write_table
from nvembed.synthesis.candidate import RETRIEVAL, Candidate, candidate_schema
from nvembed.synthesis.report import Findings, write_report

if TYPE_CHECKING:
    from nvembed.recipe import Synthesis
    from nvembed.synthesis.documents import Passage


def write_folders(
    section: Synthesis,
    findings: Findings,
    passages: Mapping[str, Sequence[Passage]],
    splits: Sequence[str],
    dataset: Path,
    eval_sets: Path,
    digest: str,
) -> dict[str, int]:
    """Fill both folders and describe them; what they hold by name.

    Args:
        findings: every candidate. passages: those of each split. splits: the held-out ones that get an eval set.
        digest: of the documents.
    """
    license = section.license or "unspecified"
    examples = {id(one): _example(one, license) for one in findings.accepted if one.split == "train"}
    unique = {example.id: example for example in examples.values()}
    write_examples(dataset, list(unique.values()))
    positives = [example.positive for example in unique.values()]
    count = write_corpus(dataset, [*(passage.text for passage in passages["train"]), *positives])
    rows = [
        {**asdict(one), "id": examples[id(one)].id if id(one) in examples else "", "accepted": not one.refused}
        for one in findings.candidates
    ]
    write_table(dataset / "synthetic.parquet", [_known(row) for row in rows], candidate_schema())
    write_report(dataset, section, findings)
    counts = {"train_examples": len(unique), "train_passages": count}
    for example in unique.values():
        counts[f"train_{example.task_type}"] = counts.get(f"train_{example.task_type}", 0) + 1
    for split in splits:
        pairs = [Pair(one.query, one.positive) for one in findings.accepted if one.split == split]
        others = [passage.text for passage in passages[split]]
        made = write_retrieval(eval_sets / split / RETRIEVAL, pairs, section.instruction or "", others=others)
        counts |= {f"{split}_{RETRIEVAL}_{name}": number for name, number in made.items()}
    _write_manifests(section, findings, counts, dataset, eval_sets, digest, license)
    return counts


def _known(row: dict[str, object]) -> dict[str, object]:
    return {name: row[name] for name in candidate_schema().names}


def _example(one: Candidate, license: str) -> Example:
    return Example.make(
        task=one.task,
        task_type=one.task_type,
        query=one.query,
        positive=one.positive,
        negatives=one.negatives,
        instruction=one.instruction,
        source=SYNTHETIC,
        license=license,
    )


def _write_manifests(
    section: Synthesis,
    findings: Findings,
    counts: Mapping[str, int],
    dataset: Path,
    eval_sets: Path,
    digest: str,
    license: str,
) -> None:
    refused = sum(findings.refused.values())
    headline = {
        "data.train_examples": float(counts["train_examples"]),
        "data.train_pairs": float(counts.get("train_retrieval", 0)),
        "data.synthetic_dev_queries": float(counts.get(f"dev_{RETRIEVAL}_queries", 0)),
        "data.synthetic_test_queries": float(counts.get(f"test_{RETRIEVAL}_queries", 0)),
        "data.synthetic_accepted": float(len(findings.accepted)),
        "data.synthetic_refused": float(refused),
        "data.synthetic_tokens": float(findings.spent.tokens),
        **({"data.synthetic_cost": findings.spent.cost} if findings.priced else {}),
    }
    about = {
        "enabled": True,
        "alone": section.alone,
        "refused": dict(findings.refused),
        "failures": dict(findings.failures),
        "requests": findings.spent.requests,
        "models": sorted({one.model for one in findings.accepted}),
    }
    for kind, folder in (("dataset", dataset), ("eval", eval_sets)):
        write_manifest(
            folder,
            kind=kind,
            section=section.model_dump(mode="json"),
            inputs={"documents": digest} if digest else {},
            counts=counts,
            licenses={SYNTHETIC: license},
            headline=headline if kind == "dataset" else {},
            extra={"synthesis": about},
        )


def write_nothing(section: Synthesis, dataset: Path, eval_sets: Path) -> None:
    """What stands for synthetic data where the section is off."""
    for kind, folder in (("dataset", dataset), ("eval", eval_sets)):
        if kind == "dataset":
            write_file(
                folder / "report.html", "<!doctype html>\n<title>Synthetic data</title>\n<p>Synthesis is off.</p>\n"
            )
        write_manifest(
            folder, kind=kind, section=section.model_dump(mode="json"), extra={"synthesis": {"enabled": False}}
        )
