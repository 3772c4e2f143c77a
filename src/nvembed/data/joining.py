"""Synthetic data beside, or in place of, what a data section names.

Synthetic folders have the shapes that `prepare` writes; their manifests say in `extra.synthesis` whether the section is
on (`enabled`) and whether there is no other data (`alone`). Held-out sets keep their own name, which says that they are
synthetic. In a mix they take the place of the source that has `synthesis: true`: its name, pool, stages and cap hold
for them, and they are checked against the evaluation texts like every other source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from nvembed.data.shards import decontaminator
from nvembed.data.stages import add_stages
from nvembed.data.store import (
    corpus_schema,
    example_schema,
    read_examples,
    read_parts,
    text_schema,
    write_table,
)

if TYPE_CHECKING:
    from nvembed.data.decontamination import Decontaminator
    from nvembed.recipe import Data

EVALUATION_TEXT = "synthetic example that holds an evaluation text"


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
    sifting = _Sifting(data, _index(_held_out_texts(own[1]), data), decontaminator(data))
    with output_folder(dataset_out) as dataset, output_folder(eval_out) as eval_sets:
        for source, folder in zip(own, (dataset, eval_sets), strict=True):
            folder.rmdir()
            link_tree(source, folder)
            (folder / MANIFEST).unlink()
        examples = sifting.examples(read_examples(synthetic.dataset))
        _add_examples(dataset, examples)
        added = _add_corpus(dataset, synthetic.dataset, sifting)
        counts = dict(read_manifest(own[0], kind="dataset").counts)
        counts["train_examples"] = counts.get("train_examples", 0) + len(examples)
        counts["train_passages"] = counts.get("train_passages", 0) + added
        for example in examples:
            key = f"train_{example.task_type}"
            counts[key] = counts.get(key, 0) + 1
        counts["train_synthetic"] = len(examples)
        counts |= _add_eval_sets(eval_sets, synthetic.eval_sets, own[0], data, sifting.dropped)
        for file in ("report.html", "report.md", "synthetic.parquet"):
            name = file if file.startswith("synthetic") else f"synthetic-{file}"
            link_file(synthetic.dataset / file, dataset / name)
        # the Markdown report names its picture, which would be the other report's
        link_file(synthetic.dataset / "report.png", dataset / "synthetic-report.png")
        line = _line_of_a_mix(sifting, synthetic, examples)
        if line:
            add_stages(dataset, line["name"], line["stages"])
        for source, folder in zip(own, (dataset, eval_sets), strict=True):
            manifest, left_out = read_manifest(source), dict(sifting.dropped)
            _describe(data, manifest, folder, synthetic.manifest, counts=counts, dropped=left_out, line=line)
    said = ", ".join(f"{number} × {why}" for why, number in sifting.dropped.items())
    note(f"{len(examples):,} synthetic examples joined the data's own" + (f"; left out: {said}" if said else ""))


@dataclass
class _Sifting:
    """What is kept out of training, and how much was.

    Attributes:
        held_out: of the own data. evaluation: texts of the tasks that a mix is checked against; None: of none.
    """

    data: Data
    held_out: NearCopies[None]
    evaluation: Decontaminator | None
    dropped: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    left_by_cap: int = 0

    @property
    def place(self) -> str | None:
        """The name of the mix's source that stands for synthetic data; None: no mix."""
        named = self.data.sources.items() if self.data.source == "mix" else ()
        return next((name for name, source in named if source.synthesis), None)

    def examples(self, examples: Sequence[Example]) -> list[Example]:
        """Those that may be trained on, in their order, under the name of their source; no more than its cap."""
        self.rows = len(examples)
        kept = []
        for example in examples:
            if example.query in self.held_out or example.positive in self.held_out:
                self.dropped["synthetic example that nearly copies a held-out text"] += 1
            else:
                kept.append(example)
        if self.evaluation is not None:
            before, kept = len(kept), self.evaluation.clean(kept).examples
            self._count(EVALUATION_TEXT, before - len(kept))
        if self.place is None:
            return kept
        cap = self.data.sources[self.place].cap or len(kept)
        drawn = {example.id for example in sorted(kept, key=lambda one: one.id)[:cap]}  # ids are digests
        self.left_by_cap = len(kept) - len(drawn)
        return [replace(example, source=self.place) for example in kept if example.id in drawn]

    def keeps_passage(self, text: str) -> bool:
        """Whether a passage may be a negative."""
        if text in self.held_out:
            self.dropped["synthetic passage that nearly copies a held-out text"] += 1
            return False
        if self.evaluation is not None and self.evaluation.holds(text):
            self.dropped["synthetic passage that holds an evaluation text"] += 1
            return False
        return True

    def _count(self, why: str, number: int) -> None:
        if number:
            self.dropped[why] += number


def _line_of_a_mix(sifting: _Sifting, synthetic: Synthetic, examples: Sequence[Example]) -> dict[str, Any] | None:
    """What a mix's lineage says of synthetic data; None where there is no mix."""
    if sifting.place is None:
        return None
    source = sifting.data.sources[sifting.place]
    models = ", ".join(synthetic.manifest.extra["synthesis"].get("models") or ())
    return {
        "name": sifting.place,
        "place": f"synthesis by {models}" if models else "synthesis",
        "task_type": source.task_type,
        "stages": list(source.stages),
        "license": ", ".join(sorted(set(synthetic.manifest.licenses.values()))),
        "rows": sifting.rows,
        "left_by_cap": sifting.left_by_cap,
        "dropped": {why: number for why, number in sifting.dropped.items() if why.startswith("synthetic example")},
        "examples": len(examples),
    }


def _describe(
    data: Data,
    manifest: Manifest,
    folder: Path,
    synthetic: Manifest,
    *,
    counts: dict[str, int] | None = None,
    dropped: dict[str, int] | None = None,
    line: Mapping[str, Any] | None = None,
) -> None:
    about: dict[str, Any] = {**synthetic.extra["synthesis"], "section": dict(synthetic.section)}
    headline = {**synthetic.headline, **manifest.headline} if manifest.kind == "dataset" else {}
    if counts is not None and headline:
        headline["data.train_examples"] = float(counts["train_examples"])
        headline["data.train_pairs"] = float(counts.get("train_retrieval", 0))
        about["left_out"] = dropped or {}
    extra = dict(manifest.extra)
    if line is not None and "sources" in extra:
        extra["sources"] = [*extra["sources"], line]
        extra["left_out"] = {name: why for name, why in extra["left_out"].items() if name != line["name"]}
    write_manifest(
        folder,
        kind=manifest.kind,
        section=data.model_dump(mode="json"),
        inputs={**manifest.inputs, **synthetic.inputs},
        counts=counts or manifest.counts,
        licenses={**manifest.licenses, **synthetic.licenses},
        headline=headline,
        extra={**extra, "synthesis": about},
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


def _add_examples(dataset: Path, examples: Sequence[Example]) -> None:
    part = len(list((dataset / "train").glob("*.parquet")))
    write_table(dataset / "train" / f"part-{part:05d}.parquet", [asdict(one) for one in examples], example_schema())


def _add_corpus(dataset: Path, source: Path, sifting: _Sifting) -> int:
    """Synthetic passages behind the own ones, in a mix in their source's pool; how many."""
    place = sifting.place
    pool = (sifting.data.sources[place].pool or place) if place is not None else None
    known = {row["id"] for row in read_parts(dataset / "corpus") if row.get("pool") == pool}
    rows = []
    for row in read_parts(source / "corpus"):
        if sifting.keeps_passage(row["text"]) and row["id"] not in known:
            rows.append(row if pool is None else {**row, "pool": pool})
    part = len(list((dataset / "corpus").glob("*.parquet")))
    schema = text_schema() if pool is None else corpus_schema()
    write_table(dataset / "corpus" / f"part-{part:05d}.parquet", rows, schema)
    return len(rows)


def _add_eval_sets(eval_sets: Path, source: Path, own: Path, data: Data, dropped: Counter[str]) -> dict[str, int]:
    """Synthetic held-out sets beside the own ones, without what nearly copies a training text of these."""
    counts: dict[str, int] = {}
    sets = {file.parent: read_retrieval(file.parent) for file in sorted(source.glob("*/*/qrels.parquet"))}
    # the held-out texts are looked into for each training text, and not the other way: a mix has millions of the latter
    index: NearCopies[str] = NearCopies(data.near_copy_threshold)
    for text in {
        text for found in sets.values() for texts in (found["queries"], found["corpus"]) for text in texts.values()
    }:
        index.add(text, text)
    trained = (row[name] for row in read_parts(own / "train") for name in ("query", "positive")) if sets else ()
    copies = {copied for text in trained for copied in index.copies_of(text)}
    for folder, found in sets.items():
        split, name = folder.parent.name, folder.name
        corpus = {key: text for key, text in found["corpus"].items() if text not in copies}
        pairs = [
            Pair(found["queries"][query], corpus[document])
            for query, documents in found["qrels"].items()
            for document in documents
            if document in corpus and found["queries"][query] not in copies
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
