"""From a source to a dataset folder and an eval folder: read, split, label, write, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nvembed.core.artifacts import output_folder, write_manifest
from nvembed.core.progress import note
from nvembed.data.components import split_file
from nvembed.data.evalsets import write_labelled, write_retrieval
from nvembed.data.example import Example, Pair
from nvembed.data.files import FilePairs, sample
from nvembed.data.joining import hand_on, join, read_synthetic
from nvembed.data.labels import TEXT_OF, example_based
from nvembed.data.locations import source_digest
from nvembed.data.modules import split_modules
from nvembed.data.pydocs import LICENSE, SOURCE, read_python_docs
from nvembed.data.report import Prepared, write_report
from nvembed.data.source import check_digest
from nvembed.data.splits import Split, generator
from nvembed.data.store import write_corpus, write_examples

if TYPE_CHECKING:
    from nvembed.recipe import Data

_FEW_PASSAGES = 20


def prepare(
    data: Data,
    dataset_out: Path,
    eval_out: Path,
    *,
    shards: int = 1,
    prepared: Sequence[Path] = (),
    synthetic: tuple[Path, Path] | None = None,
) -> None:
    """Write the training dataset and the eval sets of a recipe's `data` section.

    Args:
        data: the section.
        dataset_out, eval_out: the folders to be written.
        shards: into how many shards a mix is divided; they are made one after another and change nothing in the result.
        prepared: folders of all shards of one plan (`write_shard`), in place of making them here.
        synthetic: dataset folder and eval folder of synthetic data, which join the section's own data or, where there
            is none, are handed on.

    Both folders appear whole or not at all; the same source and section give the same bytes, manifests' times aside.
    A file is read row by row, but its different pairs are held in memory: so much is needed as its text takes.

    Raises:
        UserError: whatever `check_source` refuses, or content other than `data.digest` says.
    """
    made = read_synthetic(synthetic)
    if made is not None and made.alone:
        hand_on(data, made, dataset_out, eval_out)
        return
    if made is not None:
        with TemporaryDirectory(dir=dataset_out.parent, prefix=".own-") as folder:
            own = Path(folder) / "dataset", Path(folder) / "eval"
            prepare(data, *own, shards=shards, prepared=prepared)
            join(data, made, own, dataset_out, eval_out)
        return
    if data.source == "mix":
        from nvembed.data.mix_preparation import prepare_mix

        prepare_mix(data, dataset_out, eval_out, shards=shards, prepared=prepared)
        return
    found = _read(data)
    with output_folder(dataset_out) as dataset, output_folder(eval_out) as eval_sets:
        eval_counts = _write_eval(data, found.split, eval_sets)
        passages = write_corpus(dataset, (pair.positive for pair in found.split.train))
        write_examples(dataset, found.examples)
        counts = _counts(found.examples, passages, eval_counts)
        write_report(dataset, found, counts)
        _write_manifests(data, found, counts, dataset, eval_sets)
    _say(counts, found)


def _read(data: Data) -> Prepared:
    if data.source == "python_docs":
        docs = read_python_docs()
        check_digest(data, docs.digest)
        split = split_modules(docs.pairs, data)
        examples = _training_examples(data, split, SOURCE, LICENSE)
        return Prepared(split, examples, SOURCE, LICENSE, docs.digest, len(docs.pairs), docs.dropped)
    assert data.path is not None
    digest = source_digest(data.path)
    check_digest(data, digest)
    reader = FilePairs(data)
    pairs = list(sample(reader, data.limit, data.seed))
    split = split_file(pairs, data)
    name = data.path.rpartition("/")[2]
    examples = _training_examples(data, split, name, data.license)
    dropped = {"bad row": reader.bad, "exact duplicate": reader.duplicates}
    return Prepared(split, examples, name, data.license, digest, reader.rows, dropped, tuple(reader.bad_rows))


def _training_examples(data: Data, split: Split, source: str, license: str) -> list[Example]:
    """Pairs as they are, then the labelled tasks. A file's rows are all used: its stages choose by `task_types`."""
    instructions = dict[str, str](data.instructions.items())
    examples = [
        Example.make(
            task=pair.task,
            task_type=pair.task_type,
            query=pair.query,
            positive=pair.positive,
            negatives=pair.negatives,
            instruction=instructions[pair.task_type],
            source=source,
            license=license,
        )
        for pair in split.train
        if data.source == "file" or pair.task_type in data.task_types
    ]
    classes = split.classes()
    for task_type in TEXT_OF:
        if task_type in data.task_types and classes:
            examples += example_based(
                classes,
                task_type=task_type,
                instruction=instructions[task_type],
                negatives=data.example_negatives,
                source=source,
                license=license,
                generator=generator(data, task_type),
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


def _say(counts: Mapping[str, int], prepared: Prepared) -> None:
    if prepared.bad_rows:
        bad, first = prepared.dropped["bad row"], "; ".join(str(row) for row in prepared.bad_rows[:3])
        note(
            f"{bad} of {prepared.rows} rows cannot be used and were dropped ({first}{'; …' if bad > 3 else ''}); "
            "the data report lists them"
        )
    queries = {name: counts.get(f"{name}_retrieval_queries", 0) for name in ("test", "dev")}
    note(
        f"held out {queries['test']} queries for test, {queries['dev']} for dev; "
        f"training has {counts.get('train_retrieval', 0)} pairs, {counts['train_examples']} examples"
    )
    passages = counts.get("test_retrieval_passages", 0)
    if 0 < passages < _FEW_PASSAGES:
        note(f"the test corpus has only {passages} passages: every model finds the right one easily, scores say little")
