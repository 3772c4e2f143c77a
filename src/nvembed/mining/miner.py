"""One mining run: a dataset folder in, the same folder with hard negatives out."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.core.artifacts import Manifest, link_tree, output_folder, read_manifest, write_manifest
from nvembed.core.progress import note
from nvembed.core.state import state_root
from nvembed.data.merging import PartWriter
from nvembed.data.stages import carry_stages
from nvembed.data.store import example_schema, read_tables
from nvembed.data.text_file import text_file
from nvembed.mining.pools import Pool, read_pools
from nvembed.mining.report import write_report
from nvembed.mining.result import Mined, Tally
from nvembed.mining.selection import Chosen, select
from nvembed.mining.shards import check_shards, mine_shard, plan_shards, shard_from_json
from nvembed.mining.teachers import Teachers

if TYPE_CHECKING:
    import pyarrow as pa

    from nvembed.modeling import NVEmbedModel
    from nvembed.recipe import Mining, Resources


def mine(
    mining: Mining,
    resources: Resources,
    dataset: Path,
    out: Path,
    *,
    prepared: Sequence[Path] = (),
    own: NVEmbedModel | None = None,
) -> None:
    """Fill `negatives` of a dataset's retrieval rows and write the folder `out` (kind `mined`).

    A row's own negatives stay first; mined ones fill up to `mining.num_negatives`. A query that has too few candidates
    keeps what it has: a random text in their place would teach nothing and may be an answer. Rows of other tasks pass
    through unchanged, and so does the whole folder where `mining.enabled` is false. `prepared`: what shards found
    (`shards.mine_shard`), all of one plan. `own`: a model of this project that scores in the teachers' place.

    Raises:
        UserError: `dataset` is no dataset folder, holds no corpus though there is something to mine, or a teacher
            cannot be loaded or gives vectors that are not finite.
    """
    dataset, out = Path(dataset), Path(out)
    source = read_manifest(dataset, kind="dataset")
    shards = check_shards(prepared, mining, source)
    mined = Mined(mining)
    with contextlib.ExitStack() as stack:
        if mining.enabled:
            teachers = Teachers(mining, resources, own)
            for pool in read_pools(dataset, source, stack.enter_context(text_file(state_root() / "tmp"))):
                mined.add(pool, _mine_pool(mining, teachers, pool, shards, mined.tally))
        _say_what_falls_short(mining, mined)
        with output_folder(out) as folder:
            examples = _write_rows(dataset, folder, mined)
            link_tree(dataset / "corpus", folder / "corpus")
            carry_stages(dataset, folder)
            write_report(folder, mining, mined)
            _write_manifest(folder, mining, source, examples, mined)


def mine_in_shards(mining: Mining, resources: Resources, dataset: Path, out: Path, shards: int) -> None:
    """`mine`, with the passages divided into shares that are searched one after another: the same folder."""
    with tempfile.TemporaryDirectory(prefix="neighbours-", dir=out.parent) as place:
        folders = []
        for text in plan_shards(mining, shards):
            number, of = shard_from_json(text)
            folders.append(Path(place) / str(number))
            mine_shard(mining, resources, dataset, number, of, folders[-1])
        mine(mining, resources, dataset, out, prepared=folders)


def _mine_pool(mining: Mining, teachers: Teachers, pool: Pool, shards: Sequence[Path], tally: Tally) -> Chosen:
    from nvembed.mining.nearness import NearText

    scorers = teachers.on(pool, shards)
    tally.corpus += len(pool.corpus)
    tally.teachers = [scorer.fingerprint for scorer in scorers]
    near = NearText(mining.near_copies) if mining.near_copies is not None else None
    return select(scorers, pool, mining, tally, near)


def _say_what_falls_short(mining: Mining, mined: Mined) -> None:
    if not mining.enabled:
        note("mining is off: the examples keep the negatives they came with")
        return
    if mined.short:
        note(
            f"{mined.short} of {mined.rows} queries have fewer than {mining.num_negatives} hard negatives "
            f"({mined.without} have none): too few of the nearest {mined.tally.depth} passages pass the rule "
            f"{mining.method!r}; raise mining.max_depth"
        )
    if mined.tally.own_dropped:
        note(
            f"{mined.tally.own_dropped} negatives that came with the data equal their query or a positive "
            "and were left out"
        )


def _write_rows(dataset: Path, folder: Path, mined: Mined) -> int:
    """The dataset's rows, part by part, with what was found for them; how many."""
    import pyarrow as pa

    scores = [pa.field("positive_score", pa.float32()), pa.field("negative_scores", pa.list_(pa.float32()))]
    writer = PartWriter(folder / "train", pa.schema([*example_schema(), *scores]))
    at = 0
    for table in read_tables(dataset / "train"):
        writer.write(_filled(table.select(example_schema().names), at, mined))
        at += table.num_rows
    return writer.close()


def _filled(table: pa.Table, at: int, mined: Mined) -> pa.Table:
    import pyarrow as pa

    negatives: list[Any] = table["negatives"].to_pylist()
    positive_scores: list[float | None] = [None] * table.num_rows
    negative_scores: list[list[float]] = [[] for _ in range(table.num_rows)]
    for pool, chosen in mined.pools:
        start, stop = np.searchsorted(pool.rows, [at, at + table.num_rows])
        some = slice(int(start), int(stop))
        documents = chosen.documents[some]
        there = documents >= 0
        texts = iter(pool.documents_of(documents[there]))
        counts = there.sum(axis=1)
        for place, count, positive, row in zip(
            pool.rows[some] - at, counts, chosen.positive_scores[some], chosen.scores[some], strict=True
        ):
            negatives[place] = [next(texts) for _ in range(count)]
            positive_scores[place] = float(positive)
            negative_scores[place] = row[:count].tolist()
    place = table.column_names.index("negatives")
    table = table.set_column(place, example_schema().field("negatives"), pa.array(negatives, pa.list_(pa.string())))
    table = table.append_column("positive_score", pa.array(positive_scores, pa.float32()))
    return table.append_column("negative_scores", pa.array(negative_scores, pa.list_(pa.float32())))


def _write_manifest(folder: Path, mining: Mining, source: Manifest, examples: int, mined: Mined) -> None:
    tally, rows = mined.tally, max(1, mined.rows)
    headline = {
        "mining.queries": float(mined.rows),
        "mining.mean_negatives": mined.negatives / rows,
        "mining.short_queries": float(mined.short),
        "mining.positive_rank_1_share": mined.positives_first / rows,
        "mining.dropped_by_score_share": tally.dropped["score"] / max(1, tally.candidates),
    }
    counts = {
        "examples": examples,
        "mined": mined.rows,
        "corpus": tally.corpus,
        "negatives": mined.negatives,
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
        extra={
            "teacher": tally.teachers[0] if tally.teachers else "",
            "teachers": tally.teachers,
            "depths": {str(depth): queries for depth, queries in sorted(tally.depths.items())},
            "dataset_headline": dict(source.headline),
        },
    )
