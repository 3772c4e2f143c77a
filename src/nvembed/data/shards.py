"""A mix is prepared in blocks: so many rows of a source, read, labelled and cleaned of evaluation texts.

A block is the same whoever makes it, so the number of shards, which is only how blocks are divided among tasks, changes
nothing in what comes out. Finished blocks lie in the state folder: a shard that was killed goes on with the next one,
and another recipe with the same source finds them there. Sources that are drawn by class are read whole and make one
slice; of all others a slice is every n-th block.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import output_folder, write_file, write_manifest
from nvembed.core.digests import canonical_json, code_digest, digest_json
from nvembed.core.errors import UserError
from nvembed.core.state import hold, state_folder
from nvembed.data.adapters import SourceReader
from nvembed.data.adapters.mix import left_out
from nvembed.data.adapters.tally import Counts
from nvembed.data.columns import text_key
from nvembed.data.decontamination import Decontaminator, Dropped
from nvembed.data.example import Example
from nvembed.data.held_out import HeldOut
from nvembed.data.references import read_references
from nvembed.data.store import example_schema

if TYPE_CHECKING:
    import pyarrow as pa

    from nvembed.recipe import Data

BLOCK_ROWS = 20_000
"""Rows of a source in a block: its examples, at some ten kilobytes each, are what a shard holds in memory."""
KEYED = ("id", "query", "positive")
FORMAT = 1
_UNKNOWN_ROWS = 20_000  # what a source of unknown size counts in the plan
_SOURCE = "source.json"


@dataclass(frozen=True)
class Slice:
    """Every `of`-th block of a source, from block `index` on."""

    source: str
    index: int = 0
    of: int = 1

    def holds(self, block: int) -> bool:
        """Whether a block is one of its."""
        return block % self.of == self.index


Shard = tuple[Slice, ...]


def plan_shards(data: Data, shards: int) -> list[Shard]:
    """The sources of a mix divided into so many shards of about equal rows; fewer if there is too little to divide.

    A source larger than a shard is sliced. Anything that is no mix is one empty shard: its one task reads it itself.
    """
    if data.source != "mix":
        return [()]
    sources = {name: source for name, source in sorted(data.sources.items()) if name not in left_out(data)}
    sizes = {name: source.expected or _UNKNOWN_ROWS for name, source in sources.items()}
    share = max(sum(sizes.values()) / shards, 1)
    slices = []
    for name, size in sizes.items():
        whole = sources[name].shape in ("labelled", "sets")
        of = 1 if whole else min(-(-int(size) // int(share)), -(-size // BLOCK_ROWS))
        slices += [(size / of, Slice(name, index, of)) for index in range(of)]
    bins: list[tuple[float, int, list[Slice]]] = [(0.0, number, []) for number in range(min(shards, len(slices)))]
    heapify(bins)
    for weight, one in sorted(slices, key=lambda entry: (-entry[0], entry[1].source, entry[1].index)):
        load, number, held = heappop(bins)
        held.append(one)
        heappush(bins, (load + weight, number, held))
    return [tuple(sorted(held, key=lambda s: (s.source, s.index))) for _, _, held in sorted(bins, key=lambda b: b[1])]


def shard_json(number: int, shard: Shard) -> str:
    """A shard and its number in the plan, as the pipeline hands it on."""
    return canonical_json({"number": number, "slices": [asdict(one) for one in shard]})


def shard_from_json(text: str) -> tuple[int, Shard]:
    """Number and shard back from `shard_json`. Raises UserError if it is none."""
    try:
        tree = json.loads(text)
        slices = tuple(Slice(str(one["source"]), int(one["index"]), int(one["of"])) for one in tree["slices"])
        return int(tree["number"]), slices
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"shard {text[:60]!r}: not a list of slices ({error}); plan the shards anew") from error


def write_shard(data: Data, shard: Shard, out: Path) -> None:
    """Prepare a shard and write it as a folder `<source>/block-NNNNN.parquet` (kind `shard`), for `merge`."""
    cleaner = decontaminator(data) if shard else None
    places = prepare_shard(data, shard, cleaner)
    with output_folder(out) as folder:
        for one in shard:
            target = folder / one.source
            target.mkdir(exist_ok=True)
            for file in sorted(places[one.source].glob("*")):
                number = block_number(file)
                end = file.name == _end_name(one)
                if file.name == _SOURCE or end or (number is not None and one.holds(number)):
                    _link(file, target / file.name)
        write_manifest(
            folder,
            kind="shard",
            section=data.model_dump(mode="json"),
            counts={"slices": len(shard)},
            extra={"decontamination": cleaner.checked_against() if cleaner else {}},
        )


def prepare_shard(data: Data, shard: Iterable[Slice], cleaner: Decontaminator | None) -> dict[str, Path]:
    """Make the blocks of some slices that are not there yet; source → the state folder that holds them.

    Raises:
        UserError: a source cannot be read, or is not one of the recipe's.
    """
    shard = list(shard)
    unknown = sorted({one.source for one in shard} - set(data.sources))
    if unknown:
        raise UserError(f"shard: names source {unknown[0]!r}, which the recipe does not have; plan the shards anew")
    return {one.source: _prepare_slice(data, one, cleaner) for one in shard}


def decontaminator(data: Data) -> Decontaminator | None:
    """What the section asks for; None if it names nothing to check against."""
    section = data.decontamination
    if not section.tasks and not section.files:
        return None
    return Decontaminator(section, read_references(section, mirror=data.hub_mirror))


def _prepare_slice(data: Data, one: Slice, cleaner: Decontaminator | None) -> Path:
    reader = SourceReader(one.source, data.sources[one.source], data)
    place = state_folder("mix", source_key(reader, cleaner))
    lock = place / f"slice-{one.index}-of-{one.of}"
    lock.mkdir(exist_ok=True)
    with hold(lock):
        if not _is_done(place, one):
            try:
                _make_blocks(reader, one, place, cleaner)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise UserError(f"{place}: the disk is full; free some space, finished blocks are kept") from error
                raise
    return place


def source_key(reader: SourceReader, cleaner: Decontaminator | None) -> str:
    """What names the blocks of a source: its content, its lines in the recipe, what it is checked against, the code."""
    data, source = reader.data, reader.source
    around = data.model_dump(mode="json", include=_MATTERS)
    checked = [cleaner.section.model_dump(mode="json"), cleaner.checked_against()] if cleaner else []
    told = source.model_dump(mode="json")
    return digest_json([FORMAT, BLOCK_ROWS, reader.name, told, around, reader.open().digest, checked, code_digest()])


_MATTERS = {"label_rule", "example_negatives", "instructions", "seed"}


def _make_blocks(reader: SourceReader, one: Slice, place: Path, cleaner: Decontaminator | None) -> None:
    done = {number for file in place.glob("block-*.json") if (number := block_number(file)) is not None}
    held_out = HeldOut(reader.name, reader.held_out_texts(), labels=reader.labels_are_documents)
    limit = place / "limit.json"
    if limit.is_file():
        reader.limit = int(json.loads(limit.read_text(encoding="utf-8")))
    for number, examples in reader.blocks(BLOCK_ROWS, lambda block: one.holds(block) and block not in done):
        _write_block(place, number, examples, reader, held_out, cleaner)
        if reader.limit is not None and not limit.is_file():
            write_file(limit, json.dumps(reader.limit))
    end: dict[str, Any] = {"blocks": reader.number_of_blocks, "held_out_texts": len(held_out)}
    if not reader.divisible:  # its rows are counted by the reading, not by the block
        end["counts"] = reader.tally.whole.json
    write_file(place / _SOURCE, json.dumps(reader.lineage_of(Counts())))
    write_file(place / _end_name(one), json.dumps(end))


def _write_block(
    place: Path,
    number: int,
    examples: Sequence[Example],
    reader: SourceReader,
    held_out: HeldOut,
    cleaner: Decontaminator | None,
) -> None:
    import pyarrow.parquet as pq

    cleaned = held_out.clean(examples)
    own = len(examples) - len(cleaned.examples)
    dropped = list(cleaned.dropped)
    kept = cleaned.examples
    if cleaner is not None:
        judged = cleaner.clean(kept)
        dropped += judged.dropped
        kept = judged.examples
    counts = reader.tally.blocks[number] if reader.divisible else Counts(out=len(examples))
    about = {
        "counts": counts.json,
        "kept": len(kept),
        "own_test_split": own,
        "evaluation_text": len(cleaned.examples) - len(kept),
        "negatives": sum(one.field == "negative" for one in dropped),
    }
    for name, table in (("block", block_table(kept)), ("dropped", dropped_table(dropped))):
        aside = place / f".{name}-{number:05d}.{os.getpid()}"
        pq.write_table(table, aside, compression="zstd", compression_level=1)
        aside.replace(place / f"{name}-{number:05d}.parquet")
    write_file(place / f"block-{number:05d}.json", json.dumps(about))


def block_table(examples: Sequence[Example]) -> pa.Table:
    """Examples as a dataset has them, and `<field>_key`, the `text_key` of id, query and positive."""
    import pyarrow as pa

    columns: dict[str, Any] = {
        field.name: [getattr(example, field.name) for example in examples] for field in fields(Example)
    }
    schema = example_schema()
    keys = {f"{name}_key": pa.array(map(text_key, columns[name]), pa.uint64()) for name in KEYED}
    table = pa.Table.from_pydict(columns, schema=schema)
    for name, values in keys.items():
        table = table.append_column(pa.field(name, pa.uint64(), nullable=False), values)
    return table


def dropped_table(dropped: Sequence[Dropped]) -> pa.Table:
    """What was dropped, a row a text."""
    import pyarrow as pa

    schema = pa.schema([(f.name, pa.float64() if f.name == "similarity" else pa.string()) for f in fields(Dropped)])
    return pa.Table.from_pylist([asdict(one) for one in dropped], schema=schema)


def block_number(file: Path) -> int | None:
    """The number in a block file's name; None for another file."""
    head, _, number = file.stem.partition("-")
    return int(number) if head in ("block", "dropped") and number.isdigit() else None


def _end_name(one: Slice) -> str:
    return f"end-{one.index}-of-{one.of}.json"


def _is_done(place: Path, one: Slice) -> bool:
    end = place / _end_name(one)
    if not end.is_file():
        return False
    blocks = json.loads(end.read_text(encoding="utf-8"))["blocks"]
    return all((place / f"block-{number:05d}.json").is_file() for number in range(blocks) if one.holds(number))


def _link(file: Path, target: Path) -> None:
    """A hard link where the file system has them: blocks are large, and no one writes into one that is there."""
    try:
        os.link(file, target)
    except FileExistsError:
        return
    except OSError:
        shutil.copy2(file, target)
