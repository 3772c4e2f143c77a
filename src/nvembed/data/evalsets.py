"""Eval sets on disk, in MTEB's own shapes, one folder a task under its split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nvembed.core.artifacts import write_file
from nvembed.core.errors import UserError
from nvembed.data.example import SYMMETRIC, Pair
from nvembed.data.store import document_id, query_id, text_schema, write_table

SYNTHETIC = "synthetic"
"""Source of what language models wrote, and with a hyphen the beginning of its tasks' names."""
_MTEB = {
    "retrieval": ("Retrieval", "ndcg_at_10"),
    "classification": ("Classification", "accuracy"),
    "clustering": ("Clustering", "v_measure"),
}


def write_retrieval(
    folder: Path,
    pairs: Sequence[Pair],
    instruction: str,
    *,
    instructions: Mapping[str, str] | None = None,
    others: Sequence[str] = (),
) -> dict[str, int]:
    """Write a retrieval set whose corpus is the pairs' passages and `others`; return its counts.

    Equal queries become one query with several relevant passages. `instructions` are the task sentences of queries that
    have one of their own (query → sentence).
    """
    import pyarrow as pa

    _describe(folder, "retrieval", instruction)
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    passages = list(dict.fromkeys([*(pair.positive for pair in pairs), *others]))
    relevant = dict.fromkeys((pair.query, pair.positive) for pair in pairs)
    write_table(
        folder / "corpus.parquet", [{"id": document_id(text), "text": text} for text in passages], text_schema()
    )
    asked, schema = [{"id": query_id(text), "text": text} for text in queries], text_schema()
    if instructions is not None:
        asked = [{**row, "instruction": instructions.get(row["text"], instruction)} for row in asked]
        schema = schema.append(pa.field("instruction", pa.string(), nullable=False))
    write_table(folder / "queries.parquet", asked, schema)
    write_table(
        folder / "qrels.parquet",
        [{"query_id": query_id(query), "corpus_id": document_id(text), "score": 1} for query, text in relevant],
        pa.schema([("query_id", pa.string()), ("corpus_id", pa.string()), ("score", pa.int32())]),
    )
    return {"queries": len(queries), "passages": len(passages)}


def write_labelled(
    folder: Path,
    task_type: str,
    instruction: str,
    text_of: Callable[[Pair], str],
    *,
    test: Iterable[Pair],
    pool: Iterable[Pair] | None = None,
) -> dict[str, int]:
    """Write a classification set (`pool` is what its few-shot classifiers learn from) or a clustering set.

    Each text stands once; one that belongs to two classes has no right answer and is left out.
    """
    import pyarrow as pa

    _describe(folder, task_type, instruction)
    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    counts = {}
    for name, pairs in (("train", pool), ("test", test)):
        if pairs is not None:
            labels: dict[str, set[str]] = {}
            for pair in pairs:
                labels.setdefault(text_of(pair), set()).add(pair.label)
            rows = [{"text": text, "label": min(names)} for text, names in labels.items() if len(names) == 1]
            write_table(folder / f"{name}.parquet", rows, schema)
            counts[name] = len(rows)
    return counts


def _describe(folder: Path, task_type: str, instruction: str) -> None:
    folder.mkdir(parents=True)
    kind, score = _MTEB[task_type]
    task = {
        "name": folder.name,
        "type": kind,
        "instruction": instruction,
        "document_instruction": instruction if task_type in SYMMETRIC else "",
        "main_score": score,
    }
    write_file(folder / "task.json", json.dumps(task, indent=2) + "\n")


def read_retrieval(folder: Path) -> dict[str, Any]:
    """A retrieval set: `corpus` and `queries` map ids to texts, `qrels` a query's id to its relevant documents.

    `instructions` maps a query's id to a task sentence of its own, where the set has them.

    Texts are stripped; queries without a relevant document are left out. Raises UserError for a missing file or column,
    an empty one, ids given twice, and qrels that name unknown ids.
    """
    corpus = _by_id(folder / "corpus.parquet")
    queries = _by_id(folder / "queries.parquet")
    columns = read_columns(folder / "qrels.parquet", "query_id", "corpus_id", "score")
    qrels: dict[str, dict[str, int]] = {}
    for query, document, score in zip(*columns, strict=True):
        if str(query) not in queries:
            raise UserError(f"{folder}/qrels.parquet: names query {query!r}, which queries.parquet does not hold")
        if str(document) not in corpus:
            raise UserError(f"{folder}/qrels.parquet: names document {document!r}, which corpus.parquet does not hold")
        if int(score) > 0:
            qrels.setdefault(str(query), {})[str(document)] = int(score)
    if not qrels:
        raise UserError(f"{folder}/qrels.parquet: no query has a relevant document (score above 0)")
    return {
        "corpus": corpus,
        "queries": {i: t for i, t in queries.items() if i in qrels},
        "qrels": qrels,
        "instructions": _instructions(folder / "queries.parquet"),
    }


def _instructions(file: Path) -> dict[str, str]:
    import pyarrow.parquet as pq

    if "instruction" not in pq.read_schema(file).names:
        return {}
    return dict(zip(*read_columns(file, "id", "instruction"), strict=True))


def _by_id(file: Path) -> dict[str, str]:
    ids, texts = read_columns(file, "id", "text")
    table = dict(zip(map(str, ids), stripped(texts), strict=True))
    if len(table) < len(ids):
        raise UserError(f"{file}: {len(ids) - len(table)} ids are given twice; ids must be unique")
    return table


def read_columns(file: Path, *columns: str) -> tuple[list[Any], ...]:
    """Some columns of a Parquet file. Raises UserError if one is missing, empty or has empty cells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except FileNotFoundError:
        raise UserError(f"{file}: missing; make the eval sets anew") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: not a Parquet file ({error})") from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise UserError(f"{file}: no column {missing[0]!r}; it has {', '.join(table.column_names) or 'none'}")
    if table.num_rows == 0:
        raise UserError(f"{file}: empty; an evaluation needs at least one row")
    found = tuple(table.column(column).to_pylist() for column in columns)
    for column, values in zip(columns, found, strict=True):
        if any(value is None for value in values):
            raise UserError(f"{file}: column {column!r} has empty cells, the first in row {values.index(None) + 1}")
    return found


def stripped(texts: list[Any]) -> list[str]:
    """Texts without white space around them, as every candidate reads them."""
    return [str(text).strip() for text in texts]
