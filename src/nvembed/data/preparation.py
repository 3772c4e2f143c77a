"""From a source to a dataset folder and an eval folder: read, split, label, write, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.core.artifacts import output_folder, write_manifest
from nvembed.core.progress import note
from nvembed.data.components import split_file
from nvembed.data.evalsets import write_labelled, write_retrieval
from nvembed.data.example import Example, Pair
from nvembed.data.files import FilePairs, sample
from nvembed.data.labels import TEXT_OF, example_based
from nvembed.data.locations import source_digest
from nvembed.data.modules import split_modules
from nvembed.data.pydocs import LICENSE, SOURCE, read_python_docs
from nvembed.data.source import BadRow, check_digest
from nvembed.data.splits import Split, generator
from nvembed.data.store import write_corpus, write_examples

if TYPE_CHECKING:
    from nvembed.recipe import Data


@dataclass(frozen=True)
class Prepared:
    """A source read and split, and what is to be said of it."""

    split: Split
    source: str
    license: str
    digest: str
    rows: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    bad_rows: tuple[BadRow, ...] = ()


def prepare(data: Data, dataset_out: Path, eval_out: Path) -> None:
    """Write the training dataset and the eval sets of a recipe's `data` section.

    Both folders appear whole or not at all; the same source and section give the same bytes, manifests' times aside.

    Raises:
        UserError: whatever `check_source` refuses, or content other than `data.digest` says.
    """
    prepared = _read(data)
    split = prepared.split
    examples = _training_examples(data, prepared)
    with output_folder(dataset_out) as dataset, output_folder(eval_out) as eval_sets:
        eval_counts = _write_eval(data, split, eval_sets)
        passages = write_corpus(dataset, (pair.positive for pair in split.train))
        write_examples(dataset, examples)
        counts = _counts(examples, passages, eval_counts)
        _write_manifests(data, prepared, counts, dataset, eval_sets)
    _say(counts)


def _read(data: Data) -> Prepared:
    if data.source == "python_docs":
        docs = read_python_docs()
        check_digest(data, docs.digest)
        return Prepared(split_modules(docs.pairs, data), SOURCE, LICENSE, docs.digest, len(docs.pairs), docs.dropped)
    assert data.path is not None
    digest = source_digest(data.path)
    check_digest(data, digest)
    reader = FilePairs(data)
    pairs = list(sample(reader, data.limit, data.seed))
    dropped = {"exact duplicate": reader.duplicates, "bad row": reader.bad}
    name = data.path.rstrip("/").rpartition("/")[2]
    return Prepared(split_file(pairs, data), name, data.license, digest, reader.rows, dropped, tuple(reader.bad_rows))


def _training_examples(data: Data, prepared: Prepared) -> list[Example]:
    instructions = dict[str, str](data.instructions.items())
    origin = {"source": prepared.source, "license": prepared.license}
    examples = [
        Example.make(
            task=pair.task,
            task_type=pair.task_type,
            query=pair.query,
            positive=pair.positive,
            negatives=pair.negatives,
            instruction=instructions[pair.task_type],
            **origin,
        )
        for pair in prepared.split.train
        if data.source == "file" or pair.task_type in data.task_types
    ]
    classes = prepared.split.classes()
    for task_type in TEXT_OF:
        if task_type in data.task_types and classes:
            examples += example_based(
                classes,
                task_type=task_type,
                instruction=data.instructions[task_type],
                negatives=data.example_negatives,
                generator=generator(data, task_type),
                **origin,
            )
    return examples


def _write_eval(data: Data, split: Split, folder: Path) -> dict[str, dict[str, int]]:
    """Write every eval set; return `<split>/<task>` → counts."""
    counts = {}
    pool = [pair for pairs in split.classes().values() for pair in pairs]
    sets: Sequence[tuple[str, tuple[Pair, ...], tuple[Pair, ...]]] = (
        ("dev", split.dev, split.dev_documents),
        ("test", split.test, split.test_documents),
    )
    for name, pairs, documents in sets:
        if pairs and (data.source == "file" or "retrieval" in data.task_types):
            path = folder / name / "retrieval"
            counts[f"{name}/retrieval"] = write_retrieval(path, pairs, data.instructions["retrieval"])
        for task_type, text_of in TEXT_OF.items():
            if documents and task_type in data.task_types:
                counts[f"{name}/{task_type}"] = write_labelled(
                    folder / name / task_type,
                    task_type,
                    data.instructions[task_type],
                    text_of,
                    test=documents,
                    pool=pool if task_type == "classification" else None,
                )
    return counts


def _counts(examples: Sequence[Example], passages: int, eval_counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    counts = {"train_examples": len(examples), "train_passages": passages}
    for example in examples:
        key = f"train_{example.task_type}"
        counts[key] = counts.get(key, 0) + 1
    for place, numbers in eval_counts.items():
        for name, number in numbers.items():
            counts[f"{place.replace('/', '_')}_{name}"] = number
    return counts


def _write_manifests(data: Data, prepared: Prepared, counts: Mapping[str, int], dataset: Path, eval_sets: Path) -> None:
    headline = {
        "data.train_examples": float(counts["train_examples"]),
        "data.train_pairs": float(counts.get("train_retrieval", 0)),
        "data.dev_queries": float(counts.get("dev_retrieval_queries", 0)),
        "data.test_queries": float(counts.get("test_retrieval_queries", 0)),
    }
    dropped = {"source": dict(prepared.dropped), "split": dict(prepared.split.dropped)}
    for kind, folder in (("dataset", dataset), ("eval", eval_sets)):
        write_manifest(
            folder,
            kind=kind,
            section=data.model_dump(mode="json"),
            inputs={prepared.source: prepared.digest},
            counts=counts,
            licenses={prepared.source: prepared.license},
            headline=headline if kind == "dataset" else {},
            extra={"dropped": dropped, "rows": prepared.rows},
        )


def _say(counts: Mapping[str, int]) -> None:
    queries = {name: counts.get(f"{name}_retrieval_queries", 0) for name in ("test", "dev")}
    note(
        f"held out {queries['test']} queries for test, {queries['dev']} for dev; "
        f"training has {counts.get('train_retrieval', 0)} pairs, {counts['train_examples']} examples"
    )
