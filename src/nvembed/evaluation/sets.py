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
from nvembed.data.evalsets import read_columns, read_retrieval, stripped

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
        return EvalSet(**common, **read_retrieval(folder))
    test_texts, test_labels = read_columns(folder / "test.parquet", "text", "label")
    train_texts, train_labels = [], []
    if head["type"] == "Classification":
        train_texts, train_labels = read_columns(folder / "train.parquet", "text", "label")
        _refuse_unseen_labels(folder, train_labels, test_labels)
    names = tuple(sorted({*map(str, train_labels), *map(str, test_labels)}))
    if len(names) < 2:
        raise UserError(f"{folder}: only {len(names)} label; a {head['type'].lower()} set needs two or more")
    number = {name: index for index, name in enumerate(names)}
    return EvalSet(
        **common,
        train=(stripped(train_texts), [number[str(label)] for label in train_labels]),
        test=(stripped(test_texts), [number[str(label)] for label in test_labels]),
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


def _refuse_unseen_labels(folder: Path, train: list[Any], test: list[Any]) -> None:
    unseen = sorted({str(label) for label in test} - {str(label) for label in train})
    if unseen:
        raise UserError(
            f"{folder}: label {unseen[0]!r} is in test.parquet but not in train.parquet; nothing can learn it"
        )
