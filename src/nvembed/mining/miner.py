"""One mining run: a dataset folder in, the same folder with hard negatives out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.core.artifacts import Manifest, output_folder, read_manifest, write_manifest
from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.data import Example, read_examples, write_examples
from nvembed.data.stages import carry_stages
from nvembed.data.store import read_pools
from nvembed.mining.report import write_report
from nvembed.mining.result import MinedRow, Tally, count_short
from nvembed.mining.rules import choose, score_ceiling
from nvembed.mining.search import pair_scores, top_k
from nvembed.mining.texts import Texts

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel
    from nvembed.recipe import Mining, Resources

ROW_BLOCK = 4096


def mine(mining: Mining, resources: Resources, dataset: Path, out: Path) -> None:
    """Fill `negatives` of a dataset's retrieval rows and write the folder `out` (kind `mined`).

    A row's own negatives stay first; mined ones fill up to `mining.num_negatives`. A query that has too few candidates
    keeps what it has: a random text in their place would teach nothing and may be an answer. Rows of other tasks pass
    through unchanged, and so does the whole folder where `mining.enabled` is false.

    Raises:
        UserError: `dataset` is no dataset folder, holds no corpus though there is something to mine, or the teacher
            cannot be loaded or gives vectors that are not finite.
    """
    dataset, out = Path(dataset), Path(out)
    source = read_manifest(dataset, kind="dataset")
    examples = read_examples(dataset)
    pools = read_pools(dataset)
    tally = Tally(corpus=sum(map(len, pools.values())))
    mined: dict[int, MinedRow] = {}
    wanted = _places_by_pool(source, examples)
    if mining.enabled and wanted:
        if any(pool not in pools for pool in wanted):
            raise UserError(f"{dataset}: has no corpus to mine; make the dataset anew, or set mining.enabled=false")
        teacher = _teacher(mining, resources)
        for pool, places in wanted.items():
            chosen = [examples[place] for place in places]
            rows = _mine_rows(mining, resources, teacher, chosen, pools[pool], tally)
            mined |= dict(zip(places, rows, strict=True))
        mined = dict(sorted(mined.items()))
    _say_what_falls_short(mining, list(mined.values()), tally)
    with output_folder(out) as folder:
        _write_rows(folder, examples, mined)
        _link_files(dataset / "corpus", folder / "corpus")
        carry_stages(dataset, folder)
        write_report(folder, mining, [examples[place] for place in mined], list(mined.values()), tally)
        _write_manifest(folder, mining, source, examples, list(mined.values()), tally)


def _places_by_pool(source: Manifest, examples: Sequence[Example]) -> dict[str, list[int]]:
    """Pool → rows to mine. In a mix a query's negatives come of its own source's passages, or of its pool's."""
    sources = source.section.get("sources") or {}
    places: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        if example.task_type == "retrieval":
            pool = (sources[example.source].get("pool") or example.source) if example.source in sources else ""
            places.setdefault(pool, []).append(place)
    return dict(sorted(places.items()))


def _mine_rows(
    mining: Mining,
    resources: Resources,
    teacher: NVEmbedModel,
    examples: list[Example],
    corpus: dict[str, str],
    tally: Tally,
) -> list[MinedRow]:
    texts = Texts(examples, corpus)
    query_vectors, document_vectors = _embed(mining, teacher, texts, tally)
    near, scores = top_k(query_vectors, document_vectors[: texts.corpus_size], mining.depth, device=_device(resources))
    smallest = texts.smallest_positive_scores(query_vectors, document_vectors)
    ceilings = score_ceiling(mining.method, mining.threshold, smallest)
    tally.depth = max(tally.depth, near.shape[1])
    mined: list[MinedRow] = []
    for start in range(0, len(examples), ROW_BLOCK):
        rows = range(start, min(start + ROW_BLOCK, len(examples)))
        query = texts.query_of_row[rows.start : rows.stop]
        own = [texts.usable_negatives(row, examples[row].negatives) for row in rows]
        choice = choose(
            scores[query],
            texts.keys[near[query]],
            ceilings[query],
            wanted=mining.num_negatives - np.array([len(numbers) for numbers in own]),
            positives=[texts.positive_keys[int(key)] for key in texts.query_keys[query]],
            queries=texts.query_keys[query],
            present=[{int(key) for key in texts.keys[numbers]} for numbers in own],
            shift=mining.shift if mining.method == "shifted" else 0,
        )
        tally.candidates += near.shape[1] * len(rows)
        tally.left += choice.left
        tally.own_dropped += sum(len(set(examples[row].negatives)) for row in rows) - sum(map(len, own))
        for name, count in choice.dropped.items():
            tally.dropped[name] += count
        for row, q, kept, columns in zip(rows, query, own, choice.columns, strict=True):
            numbers = np.array([texts.positive_of_row[row], *kept, *near[q][columns]], dtype=np.int64)
            row_scores = pair_scores(query_vectors[q : q + 1], document_vectors, numbers[None])[0].tolist()
            mined.append(
                MinedRow(
                    negatives=tuple(texts.documents[number] for number in numbers[1:]),
                    scores=row_scores[1:],
                    own=len(kept),
                    positive_score=row_scores[0],
                    ceiling=float(ceilings[q]),
                    positive_first=texts.positive_comes_first(int(q), near[q]),
                )
            )
    return mined


def _teacher(mining: Mining, resources: Resources) -> NVEmbedModel:
    """The teacher, which reads texts as its own card says."""
    from nvembed.modeling import NVEmbedModel

    teacher = mining.teacher
    return NVEmbedModel.from_card(
        teacher.backbone,
        revision=teacher.revision,
        pooling=teacher.pooling,
        max_length=teacher.max_length,
        trust_remote_code=teacher.trust_remote_code,
        device=_device(resources),
    )


def _embed(mining: Mining, model: NVEmbedModel, texts: Texts, tally: Tally) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's vectors of queries and documents, (q, dim) and (n, dim)."""
    from nvembed.encoding import encode_cached

    teacher = mining.teacher
    tally.teacher = model.fingerprint()
    vectors = [
        encode_cached(model, [prefix + text for text in rows], batch_tokens=mining.batch_tokens, label=label)
        for rows, prefix, label in (
            (texts.queries, teacher.query_prefix, "embedding queries"),
            (texts.documents, teacher.document_prefix, "embedding passages"),
        )
    ]
    return vectors[0], vectors[1]


def _device(resources: Resources) -> str:
    import torch

    if resources.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return resources.device


def _say_what_falls_short(mining: Mining, mined: Sequence[MinedRow], tally: Tally) -> None:
    if not mining.enabled:
        note("mining is off: the examples keep the negatives they came with")
        return
    short = count_short(mined, mining.num_negatives)
    if short:
        none = sum(not row.negatives for row in mined)
        note(
            f"{short} of {len(mined)} queries have fewer than {mining.num_negatives} hard negatives ({none} have "
            f"none): too few of the nearest {tally.depth} passages pass the rule {mining.method!r}; raise mining.depth"
        )
    if tally.own_dropped:
        note(f"{tally.own_dropped} negatives that came with the data equal their query or a positive and were left out")


def _write_rows(folder: Path, examples: list[Example], mined: dict[int, MinedRow]) -> None:
    filled = [
        replace(example, negatives=mined[place].negatives) if place in mined else example
        for place, example in enumerate(examples)
    ]
    found = [mined.get(place) for place in range(len(examples))]
    columns: dict[str, list[Any]] = {
        "positive_score": [row.positive_score if row else None for row in found],
        "negative_scores": [row.scores if row else [] for row in found],
    }
    write_examples(folder, filled, columns=columns)


def _link_files(source: Path, target: Path) -> None:
    """Hard links where the file system has them: a corpus may be large, and no one writes into a finished folder."""
    target.mkdir(parents=True)
    for file in sorted(source.glob("*")):
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copy2(file, target / file.name)


def _write_manifest(
    folder: Path,
    mining: Mining,
    source: Manifest,
    examples: list[Example],
    mined: list[MinedRow],
    tally: Tally,
) -> None:
    rows = max(1, len(mined))
    negatives = sum(len(row.negatives) for row in mined)
    headline = {
        "mining.queries": float(len(mined)),
        "mining.mean_negatives": negatives / rows,
        "mining.short_queries": float(count_short(mined, mining.num_negatives)),
        "mining.positive_rank_1_share": sum(row.positive_first for row in mined) / rows,
        "mining.dropped_by_score_share": tally.dropped["score"] / max(1, tally.candidates),
    }
    counts = {
        "examples": len(examples),
        "mined": len(mined),
        "corpus": tally.corpus,
        "negatives": negatives,
        "depth": tally.depth,
        "candidates": tally.candidates,
        "left": tally.left,
        "own_dropped": tally.own_dropped,
        **{f"dropped_{name}": count for name, count in tally.dropped.items()},
    }
    write_manifest(
        folder,
        kind="mined",
        section=mining.model_dump(mode="json"),
        inputs={"dataset": source.content},
        counts=counts,
        licenses=source.licenses,
        headline=headline if mining.enabled else {"mining.queries": 0.0},
        extra={"teacher": tally.teacher, "dataset_headline": dict(source.headline)},
    )
