"""Reading an eval folder, and refusing one that would give a number without a meaning.

`<split>/<task>/task.json` stands beside `corpus.parquet`, `queries.parquet` and `qrels.parquet` (retrieval),
`train.parquet` and `test.parquet` (classification) or `test.parquet` (clustering). Texts are stripped here, so that
every candidate, BM25 included, reads the very same ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvembed.core.errors import UserError

METRICS = {"Retrieval": "ndcg_at_10", "Classification": "accuracy", "Clustering": "v_measure"}


@dataclass(frozen=True)
class EvalSet:
    """One task of one split.

    `corpus` and `queries` map ids to texts and `qrels` a query's id to its relevant documents (retrieval); `train` and
    `test` are (texts, labels) with labels as numbers into `label_names` (classification, clustering).
    """

    split: str
    name: str
    type: str
    instruction: str
    document_instruction: str
    main_score: str
    corpus: dict[str, str] = field(default_factory=dict)
    queries: dict[str, str] = field(default_factory=dict)
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)
    train: tuple[list[str], list[int]] = field(default_factory=lambda: ([], []))
    test: tuple[list[str], list[int]] = field(default_factory=lambda: ([], []))
    label_names: tuple[str, ...] = ()


def read_sets(folder: Path | str, splits: Iterable[str]) -> list[EvalSet]:
    """The tasks of an eval folder, by split (in the order given) and name.

    Raises:
        UserError: a split without tasks, a missing file or column, an unknown type, an empty corpus, qrels that name
            unknown ids, ids given twice, too few labels.
    """
    sets = []
    for split in splits:
        tasks = sorted((Path(folder) / split).glob("*/task.json"))
        if not tasks:
            raise UserError(
                f"{folder}: no tasks under {split}/; make the eval sets anew or leave out the split {split!r}"
            )
        sets += [_read_set(file.parent, split) for file in tasks]
    return sets


def _read_set(folder: Path, split: str) -> EvalSet:
    head = _read_head(folder / "task.json")
    common: dict[str, Any] = {
        "split": split,
        "name": str(head["name"]),
        "type": head["type"],
        "instruction": str(head.get("instruction") or ""),
        "document_instruction": str(head.get("document_instruction") or ""),
        "main_score": head.get("main_score") or METRICS[head["type"]],
    }
    if common["main_score"] != METRICS[head["type"]]:
        raise UserError(
            f"{folder}/task.json: main_score {common['main_score']!r} is not known for {head['type']}; "
            f"use {METRICS[head['type']]!r}"
        )
    if head["type"] == "Retrieval":
        return EvalSet(**common, **_read_retrieval(folder))
    test_texts, test_labels = _read_columns(folder / "test.parquet", "text", "label")
    train_texts, train_labels = [], []
    if head["type"] == "Classification":
        train_texts, train_labels = _read_columns(folder / "train.parquet", "text", "label")
        _refuse_unseen_labels(folder, train_labels, test_labels)
    names = tuple(sorted({*map(str, train_labels), *map(str, test_labels)}))
    if len(names) < 2:
        raise UserError(f"{folder}: only {len(names)} label; a {head['type'].lower()} set needs two or more")
    number = {name: index for index, name in enumerate(names)}
    return EvalSet(
        **common,
        train=(_strip(train_texts), [number[str(label)] for label in train_labels]),
        test=(_strip(test_texts), [number[str(label)] for label in test_labels]),
        label_names=names,
    )


def _read_head(file: Path) -> dict[str, Any]:
    try:
        head = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); make the eval sets anew") from None
    if not isinstance(head, dict) or not head.get("name") or head.get("type") not in METRICS:
        raise UserError(f"{file}: needs a name and a type out of {', '.join(METRICS)}")
    return head


def _read_retrieval(folder: Path) -> dict[str, Any]:
    corpus = _by_id(folder / "corpus.parquet")
    queries = _by_id(folder / "queries.parquet")
    columns = _read_columns(folder / "qrels.parquet", "query_id", "corpus_id", "score")
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
    return {"corpus": corpus, "queries": {i: t for i, t in queries.items() if i in qrels}, "qrels": qrels}


def _by_id(file: Path) -> dict[str, str]:
    ids, texts = _read_columns(file, "id", "text")
    table = dict(zip(map(str, ids), _strip(texts), strict=True))
    if len(table) < len(ids):
        raise UserError(f"{file}: {len(ids) - len(table)} ids are given twice; ids must be unique")
    return table


def _read_columns(file: Path, *columns: str) -> tuple[list[Any], ...]:
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


def _strip(texts: list[Any]) -> list[str]:
    return [str(text).strip() for text in texts]


def _refuse_unseen_labels(folder: Path, train: list[Any], test: list[Any]) -> None:
    unseen = sorted({str(label) for label in test} - {str(label) for label in train})
    if unseen:
        raise UserError(
            f"{folder}: label {unseen[0]!r} is in test.parquet but not in train.parquet; nothing can learn it"
        )
