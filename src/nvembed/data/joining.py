"""Synthetic data beside, or in place of, what a data section names.

Synthetic folders have the shapes that `prepare` writes; their manifests say in `extra.synthesis` whether the section is
on (`enabled`) and whether there is no other data (`alone`). Held-out sets keep their own name, which says that they are
synthetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import (
    MANIFEST,
    Manifest,
    link_file,
    link_tree,
    output_folder,
    read_manifest,
    write_manifest,
)
from nvembed.core.progress import note
from nvembed.data.evalsets import read_retrieval, write_retrieval
from nvembed.data.example import Example, Pair
from nvembed.data.near_copies import NearCopies
from nvembed.data.store import (
    corpus_schema,
    example_schema,
    read_examples,
    read_parts,
    text_schema,
    write_table,
)

if TYPE_CHECKING:
    from nvembed.recipe import Data

POOL = "synthetic"


@dataclass(frozen=True)
class Synthetic:
    """What `synthesize_data` wrote."""

    dataset: Path
    eval_sets: Path
    manifest: Manifest

    @property
    def alone(self) -> bool:
        """Whether there is no other data."""
        return bool(self.manifest.extra["synthesis"].get("alone"))


def read_synthetic(folders: tuple[Path, Path] | None) -> Synthetic | None:
    """The synthetic data of a dataset folder and an eval folder; None where there is none, or its section is off."""
    if folders is None:
        return None
    manifest = read_manifest(folders[0], kind="dataset")
    enabled = manifest.extra.get("synthesis", {}).get("enabled")
    return Synthetic(*folders, manifest) if enabled else None


def hand_on(data: Data, synthetic: Synthetic, dataset_out: Path, eval_out: Path) -> None:
    """Synthetic data as the whole of the data: the same files under manifests of the data section."""
    with output_folder(dataset_out) as dataset, output_folder(eval_out) as eval_sets:
        for source, folder in ((synthetic.dataset, dataset), (synthetic.eval_sets, eval_sets)):
            folder.rmdir()
            link_tree(source, folder)
            (folder / MANIFEST).unlink()
            _describe(data, read_manifest(source), folder, synthetic.manifest)


def join(data: Data, synthetic: Synthetic, own: tuple[Path, Path], dataset_out: Path, eval_out: Path) -> None:
    """The data section's own dataset and eval sets (`own`), with synthetic examples and sets beside them.

    Synthetic examples that nearly copy a text held out of the own data are dropped, and so are synthetic held-out
    queries whose passage nearly copies an own training text: nothing leaks in either direction.
    """
    dropped: Counter[str] = Counter()
    with output_folder(dataset_out) as dataset, output_folder(eval_out) as eval_sets:
        for source, folder in zip(own, (dataset, eval_sets), strict=True):
            folder.rmdir()
            link_tree(source, folder)
            (folder / MANIFEST).unlink()
        examples = _without_held_out(read_examples(synthetic.dataset), _held_out_texts(own[1]), data, dropped)
        _add_examples(dataset, examples)
        added = _add_corpus(dataset, synthetic.dataset, _held_out_texts(own[1]), data, dropped)
        counts = dict(read_manifest(own[0], kind="dataset").counts)
        counts["train_examples"] = counts.get("train_examples", 0) + len(examples)
        counts["train_passages"] = counts.get("train_passages", 0) + added
        for example in examples:
            key = f"train_{example.task_type}"
            counts[key] = counts.get(key, 0) + 1
        counts["train_synthetic"] = len(examples)
        counts |= _add_eval_sets(eval_sets, synthetic.eval_sets, own[0], data, dropped)
        for file in ("report.html", "report.md", "synthetic.parquet"):
            name = file if file.startswith("synthetic") else f"synthetic-{file}"
            link_file(synthetic.dataset / file, dataset / name)
        # the Markdown report names its picture, which would be the other report's
        link_file(synthetic.dataset / "report.png", dataset / "synthetic-report.png")
        for source, folder in zip(own, (dataset, eval_sets), strict=True):
            manifest = read_manifest(source)
            _describe(data, manifest, folder, synthetic.manifest, counts=counts, dropped=dict(dropped))
    note(
        f"{len(examples):,} synthetic examples joined the data's own"
        + (f"; left out: {', '.join(f'{number} × {why}' for why, number in dropped.items())}" if dropped else "")
    )


def _describe(
    data: Data,
    manifest: Manifest,
    folder: Path,
    synthetic: Manifest,
    *,
    counts: dict[str, int] | None = None,
    dropped: dict[str, int] | None = None,
) -> None:
    about: dict[str, Any] = {**synthetic.extra["synthesis"], "section": dict(synthetic.section)}
    headline = {**synthetic.headline, **manifest.headline} if manifest.kind == "dataset" else {}
    if counts is not None and headline:
        headline["data.train_examples"] = float(counts["train_examples"])
        headline["data.train_pairs"] = float(counts.get("train_retrieval", 0))
        about["left_out"] = dropped or {}
    write_manifest(
        folder,
        kind=manifest.kind,
        section=data.model_dump(mode="json"),
        inputs={**manifest.inputs, **synthetic.inputs},
        counts=counts or manifest.counts,
        licenses={**manifest.licenses, **synthetic.licenses},
        headline=headline,
        extra={**manifest.extra, "synthesis": about},
    )


def _held_out_texts(eval_sets: Path) -> list[str]:
    """Queries and passages of every retrieval set of an eval folder."""
    texts: dict[str, None] = {}
    for file in sorted(eval_sets.glob("*/*/qrels.parquet")):
        found = read_retrieval(file.parent)
        texts |= dict.fromkeys([*found["queries"].values(), *found["corpus"].values()])
    return list(texts)


def _index(texts: Iterable[str], data: Data) -> NearCopies[None]:
    index: NearCopies[None] = NearCopies(data.near_copy_threshold)
    for text in texts:
        index.add(None, text)
    return index


def _without_held_out(
    examples: Sequence[Example], held_out: Sequence[str], data: Data, dropped: Counter[str]
) -> list[Example]:
    index, kept = _index(held_out, data), []
    for example in examples:
        if example.query in index or example.positive in index:
            dropped["synthetic example that nearly copies a held-out text"] += 1
        else:
            kept.append(example)
    return kept


def _add_examples(dataset: Path, examples: Sequence[Example]) -> None:
    part = len(list((dataset / "train").glob("*.parquet")))
    write_table(dataset / "train" / f"part-{part:05d}.parquet", [asdict(one) for one in examples], example_schema())


def _add_corpus(dataset: Path, source: Path, held_out: Sequence[str], data: Data, dropped: Counter[str]) -> int:
    """Synthetic passages behind the own ones, in a pool of their own where the own ones have pools; how many."""
    import pyarrow.parquet as pq

    parts = sorted((dataset / "corpus").glob("*.parquet"))
    pooled = "pool" in pq.read_schema(parts[0]).names
    known = set() if pooled else {row["id"] for row in read_parts(dataset / "corpus")}
    index, rows = _index(held_out, data), []
    for row in read_parts(source / "corpus"):
        if row["text"] in index:
            dropped["synthetic passage that nearly copies a held-out text"] += 1
        elif row["id"] not in known:
            rows.append({**row, "pool": POOL} if pooled else row)
    schema = corpus_schema() if pooled else text_schema()
    write_table(dataset / "corpus" / f"part-{len(parts):05d}.parquet", rows, schema)
    return len(rows)


def _add_eval_sets(eval_sets: Path, source: Path, own: Path, data: Data, dropped: Counter[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    files = sorted(source.glob("*/*/qrels.parquet"))
    trained = [text for row in read_parts(own / "train") for text in (row["query"], row["positive"])] if files else []
    index = _index(dict.fromkeys(trained), data)
    for file in files:
        split, name = file.parent.parent.name, file.parent.name
        found = read_retrieval(file.parent)
        corpus = {key: text for key, text in found["corpus"].items() if text not in index}
        pairs = [
            Pair(found["queries"][query], corpus[document])
            for query, documents in found["qrels"].items()
            for document in documents
            if document in corpus and found["queries"][query] not in index
        ]
        if gone := len(found["queries"]) - len({pair.query for pair in pairs}):
            dropped["synthetic held-out query that nearly copies a training text"] += gone
        if not pairs:
            continue
        made = write_retrieval(
            eval_sets / split / name, pairs, data.instructions["retrieval"], others=list(corpus.values())
        )
        counts |= {f"{split}_{name}_{what}": number for what, number in made.items()}
    return counts
