"""Eval sets on disk, in MTEB's own shapes, one folder a task under its split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nvembed.core.artifacts import write_file
from nvembed.data.example import SYMMETRIC, Pair
from nvembed.data.store import document_id, query_id, text_schema, write_table

_MTEB = {
    "retrieval": ("Retrieval", "ndcg_at_10"),
    "classification": ("Classification", "accuracy"),
    "clustering": ("Clustering", "v_measure"),
}


def write_retrieval(folder: Path, pairs: Sequence[Pair], instruction: str) -> dict[str, int]:
    """Write a retrieval set whose corpus is exactly the pairs' passages; return its counts.

    Equal queries become one query with several relevant passages.
    """
    import pyarrow as pa

    _describe(folder, "retrieval", instruction)
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    passages = list(dict.fromkeys(pair.positive for pair in pairs))
    relevant = dict.fromkeys((pair.query, pair.positive) for pair in pairs)
    for name, texts, id_of in (("corpus", passages, document_id), ("queries", queries, query_id)):
        write_table(folder / f"{name}.parquet", [{"id": id_of(text), "text": text} for text in texts], text_schema())
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
