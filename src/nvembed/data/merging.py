"""Blocks of all sources to one dataset folder: the same bytes however they were divided among shards.

One pass, a block at a time, sources by name and blocks by number. Equal examples and equal passages are told apart by
64-bit digests, which are all that grows with the mix; texts go from block to part as Arrow columns.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.core.errors import UserError
from nvembed.core.progress import Progress
from nvembed.data.adapters.mix import left_out
from nvembed.data.adapters.tally import Counts
from nvembed.data.decontamination import Decontaminator
from nvembed.data.dev_queries import DevQueries, draw_dev
from nvembed.data.example import Example
from nvembed.data.keys import KeySet
from nvembed.data.shards import block_number, block_table, dropped_table
from nvembed.data.store import ROWS_A_PART, corpus_schema, document_id, example_schema

if TYPE_CHECKING:
    import pyarrow as pa

    from nvembed.recipe import Data

SHOWN = 2  # examples of each source that the report shows
_DROPPED_SHOWN = 3  # dropped texts of each source and kind
LONGEST = 2000  # words beyond which a text is counted as so long


@dataclass
class Blocks:
    """A source's blocks, all of them there. `about` is its lineage without counts."""

    name: str
    files: list[Path]
    about: dict[str, Any]
    counts: Counts
    own_test_split: int = 0
    evaluation_text: int = 0
    negatives: int = 0
    held_out_texts: int = 0


@dataclass
class Merged:
    """What a merge wrote, and what is to be said of it.

    Attributes:
        lineage: of each source, with counts. lengths: (source, query or passage) → number of texts by words.
        shown, dropped_shown: some examples, and some rows of what was dropped, of each source.
    """

    lineage: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    lengths: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    shown: dict[str, list[Example]] = field(default_factory=dict)
    dropped_shown: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    dev: DevQueries | None = None


def gather(data: Data, places: Iterable[tuple[str, Path]]) -> list[Blocks]:
    """The blocks of every source of the mix.

    Args:
        data: the section they were made for.
        places: (source, a folder with some of its blocks), as shards left them.

    Raises:
        UserError: a block is missing, too many of a source's rows are unusable, or it gave no example.
    """
    folders: dict[str, list[Path]] = {}
    for name, folder in places:
        folders.setdefault(name, []).append(folder)
    wanted = sorted(set(data.sources) - set(left_out(data)))
    if missing := [name for name in wanted if name not in folders]:
        raise UserError(f"the shards lack source {missing[0]}; prepare all shards of one plan, then merge")
    found = [_gather_source(name, folders[name]) for name in wanted]
    for blocks in found:
        where = f"source {blocks.name}: {blocks.about['place']}"
        fail = lambda what, where=where: UserError(f"{where}: {what}")  # noqa: E731
        blocks.counts.refuse_bad(fail, data.max_bad_rows)
        blocks.counts.refuse_nothing(fail)
    return found


def _gather_source(name: str, folders: Sequence[Path]) -> Blocks:
    ends = {file.name: _read(file) for folder in folders for file in folder.glob("end-*.json")}
    files = {
        number: file
        for folder in folders
        for file in folder.glob("block-*.json")
        if (number := block_number(file)) is not None
    }
    total = max((end["blocks"] for end in ends.values()), default=0)
    lost = next((number for number in range(total) if number not in files), None)
    if not ends or lost is not None:
        raise UserError(f"source {name}: block {lost or 0} is missing; prepare the shard that holds it again")
    about = next(_read(folder / "source.json") for folder in folders if (folder / "source.json").is_file())
    each = [_read(files[number]) for number in range(total)]
    whole = [Counts.of_json(end["counts"]) for end in ends.values() if "counts" in end]
    return Blocks(
        name=name,
        files=[files[number].with_suffix(".parquet") for number in range(total)],
        about=about,
        counts=whole[0] if whole else Counts.sum(Counts.of_json(one["counts"]) for one in each),
        own_test_split=sum(one["own_test_split"] for one in each),
        evaluation_text=sum(one["evaluation_text"] for one in each),
        negatives=sum(one["negatives"] for one in each),
        held_out_texts=max(end["held_out_texts"] for end in ends.values()),
    )


def merge(data: Data, gathered: Sequence[Blocks], folder: Path) -> Merged:
    """Write `train`, `corpus` and `dropped.parquet` of a dataset folder. Raises UserError if nothing is left."""
    merged = Merged()
    if data.dev_queries:
        merged.dev = draw_dev(data, gathered)
    near_dev = merged.dev.decontaminator(data.decontamination) if merged.dev else None
    train = PartWriter(folder / "train", example_schema())
    corpus = PartWriter(folder / "corpus", corpus_schema())
    listed = PartWriter(folder, dropped_table([]).schema, name="dropped.parquet")
    pools: dict[str, KeySet] = {}
    progress, done = Progress("merging blocks", sum(len(blocks.files) for blocks in gathered)), 0
    for blocks in gathered:
        source = data.sources[blocks.name]
        tally: Counter[str] = Counter()
        ids, pool = KeySet(), source.pool or blocks.name
        for file in blocks.files:
            table = _without_repeats(_read_table(file), ids, tally)
            table = _without_dev(table, blocks.name, merged, near_dev, tally, listed)
            train.write(table.select(example_schema().names))
            if source.task_type == "retrieval":
                corpus.write(_passages(table, pools.setdefault(pool, KeySet()), pool))
            listed.write(_told(_read_table(file.with_name(file.name.replace("block-", "dropped-"))), merged))
            _look(table, blocks.name, merged)
            tally["examples"] += table.num_rows
            done += 1
            progress.update(done)
        merged.lineage.append(_lineage(blocks, tally))
        merged.counts[f"train_{source.task_type}"] += tally["examples"]
        merged.counts["train_examples"] += tally["examples"]
    merged.counts["train_passages"] = corpus.close()
    listed.close()
    if not train.close():
        raise UserError("data.sources: no example is left of all of them; the shards' counts say which rule took them")
    return merged


def _without_repeats(table: pa.Table, ids: KeySet, tally: Counter[str]) -> pa.Table:
    import pyarrow as pa

    first = ids.first_seen(table["id_key"].to_numpy())
    tally["exact duplicate"] += int((~first).sum())
    return table if first.all() else table.filter(pa.array(first))


def _without_dev(
    table: pa.Table,
    name: str,
    merged: Merged,
    near_dev: Decontaminator | None,
    tally: Counter[str],
    listed: PartWriter,
) -> pa.Table:
    """The rows whose query is not held out, and which hold no held-out query."""
    import pyarrow as pa

    if merged.dev is None or near_dev is None:
        return table
    own = merged.dev.holds(name, table["query_key"].to_numpy())
    tally["held out for dev"] += int(own.sum())
    rest = table.filter(pa.array(~own))
    cleaned = near_dev.clean(examples_of(rest))
    if not cleaned.dropped:
        return rest
    tally["holds a dev query"] += rest.num_rows - len(cleaned.examples)
    listed.write(_told(dropped_table(cleaned.dropped), merged))
    return block_table(cleaned.examples)


def _passages(table: pa.Table, seen: KeySet, pool: str) -> pa.Table:
    import pyarrow as pa

    fresh = table["positive"].filter(pa.array(seen.first_seen(table["positive_key"].to_numpy())))
    ids = [document_id(text) for text in fresh.to_pylist()]
    return pa.table([pa.array(ids, pa.string()), fresh, pa.array([pool] * len(ids), pa.string())], corpus_schema())


def _look(table: pa.Table, name: str, merged: Merged) -> None:
    """Lengths, and the first examples."""
    import pyarrow.compute as pc

    shown = merged.shown.setdefault(name, [])
    if len(shown) < SHOWN:
        shown += examples_of(table.slice(0, SHOWN - len(shown)))
    for kind, column in (("query", "query"), ("passage", "positive")):
        words = np.minimum(pc.count_substring(table[column], " ").to_numpy() + 1, LONGEST)
        number = np.bincount(words, minlength=LONGEST + 1)
        merged.lengths[name, kind] = merged.lengths.get((name, kind), 0) + number


def _told(dropped: pa.Table, merged: Merged) -> pa.Table:
    """The table, counted; some rows of each kind are kept to be shown."""
    if dropped.num_rows:
        for row in dropped.to_pylist():
            kind = f"{row['source']}: {row['field']} ({row['kind']})"
            merged.dropped[kind] += 1
            if merged.dropped[kind] <= _DROPPED_SHOWN:
                merged.dropped_shown.append(row)
    return dropped


def _lineage(blocks: Blocks, tally: Mapping[str, int]) -> dict[str, Any]:
    dropped = Counter(blocks.counts.dropped)
    dropped["exact duplicate"] += tally.get("exact duplicate", 0)
    dropped["text of its own test split"] += blocks.own_test_split
    dropped["evaluation text"] += blocks.evaluation_text
    dropped["held out for dev"] += tally.get("held out for dev", 0)
    dropped["holds a dev query"] += tally.get("holds a dev query", 0)
    return {
        **blocks.about,
        "rows": blocks.counts.rows,
        "unusable_rows": blocks.counts.unusable,
        "left_by_cap": blocks.counts.left_by_cap,
        "dropped": {rule: number for rule, number in sorted(dropped.items()) if number},
        "dropped_negatives": blocks.negatives,
        "held_out_texts": blocks.held_out_texts,
        "examples": tally.get("examples", 0),
    }


class PartWriter:
    """Tables to numbered Parquet parts of `ROWS_A_PART` rows, or to one named file, as they come."""

    def __init__(self, folder: Path, schema: pa.Schema, *, name: str | None = None) -> None:
        self._folder, self._schema, self._name = folder, schema, name
        self._rows = self._parts = self._inside = 0
        self._writer: Any = None
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        at = 0
        while at < table.num_rows:
            if self._writer is None:
                self._open()
            room = table.num_rows if self._name else ROWS_A_PART - self._inside
            part = table.slice(at, room)
            self._writer.write_table(part.cast(self._schema))
            at, self._inside = at + part.num_rows, self._inside + part.num_rows
            if self._name is None and self._inside == ROWS_A_PART:
                self._end()
        self._rows += table.num_rows

    def close(self) -> int:
        """End the last part, one without rows if there is no other; how many rows were written."""
        if self._writer is None and not self._parts:
            self._open()
        if self._writer is not None:
            self._end()
        return self._rows

    def _open(self) -> None:
        import pyarrow.parquet as pq

        file = self._folder / (self._name or f"part-{self._parts:05d}.parquet")
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")

    def _end(self) -> None:
        self._writer.close()
        self._writer, self._inside, self._parts = None, 0, self._parts + 1


def examples_of(table: pa.Table) -> list[Example]:
    """The examples of a block's rows."""
    rows = table.select(example_schema().names).to_pylist()
    return [Example(**{**row, "negatives": tuple(row["negatives"])}) for row in rows]


def _read(file: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return tree


def _read_table(file: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file, use_threads=False, memory_map=False, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read as a block ({error}); prepare its shard again") from error
