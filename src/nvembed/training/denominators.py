"""Which documents stand in which query's denominator, as far as texts and tasks decide it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from nvembed.data.columns import text_key
from nvembed.training.losses import Comparison

if TYPE_CHECKING:
    from nvembed.data import Example
    from nvembed.recipe import InBatch

LABELLED = frozenset({"classification", "clustering"})
"""Task types whose query and positive are of one class and whose negatives are of others."""

TeacherScores = Mapping[str, Mapping[str, float]]
"""An example's id → text of one of its own documents → the teacher's score of it for the example's query."""


class Classes:
    """(task, text) → number of a class, by digests: the texts of millions of examples are not held."""

    def __init__(self, numbers: Mapping[int, int]) -> None:
        self._numbers = numbers

    def __getitem__(self, node: tuple[str, str]) -> int:
        return self._numbers[_node(*node)]

    def __contains__(self, node: tuple[str, str]) -> bool:
        return _node(*node) in self._numbers

    def __len__(self) -> int:
        return len(self._numbers)


def _node(task: str, text: str) -> int:
    return text_key(f"{task}\0{text}")


@dataclass(frozen=True)
class Column:
    """One occurrence of a document in a batch: whose it is, its row in the document matrix, its text."""

    example: int
    row: int
    text: str
    is_positive: bool


def has_in_batch(example: Example, in_batch: InBatch) -> bool:
    """Whether an example's query is compared with other examples' documents. Its task's name goes before its type."""
    for name in (example.task, example.task_type):
        if name in in_batch.on_for or name in in_batch.off_for:
            return name in in_batch.on_for
    return in_batch.enabled


def compare(
    batch: Sequence[Example],
    rows: Sequence[int],
    columns: Sequence[Column],
    in_batch: InBatch,
    *,
    classes: Classes | None = None,
    teacher: TeacherScores | None = None,
) -> Comparison:
    """The denominators of the examples `rows` of a batch.

    Left out is every document whose text is that of an own positive: the positive of this example, or of another
    example that asks the same query. With `classes` so is every document known to be of the query's own class.
    """
    numbers: dict[str, int] = {}
    texts = np.array([numbers.setdefault(column.text, len(numbers)) for column in columns])
    owners = np.array([column.example for column in columns])
    is_positive = np.array([column.is_positive for column in columns])
    place = {column.example: index for index, column in enumerate(columns) if column.is_positive}
    positives: dict[tuple[str, str], set[int]] = {}
    for example in batch:
        if example.positive in numbers:
            positives.setdefault((example.query, example.query_instruction), set()).add(numbers[example.positive])
    others = np.ones(len(columns), dtype=bool) if in_batch.others_hard_negatives else is_positive
    own = owners == np.array(rows)[:, None]
    same_class = _texts_by_class(batch, numbers, classes) if classes is not None else {}
    allowed = np.zeros((len(rows), len(columns)), dtype=bool)
    for row, index in enumerate(rows):
        example = batch[index]
        seen = own[row] | others if has_in_batch(example, in_batch) else own[row]
        right = positives[example.query, example.query_instruction]
        if classes is not None and example.task_type in LABELLED:
            right = right | same_class[classes[example.task, example.query]]
        allowed[row] = seen & ~np.isin(texts, list(right))
        allowed[row, place[index]] = True
    return Comparison(
        columns=torch.tensor([column.row for column in columns]),
        target=torch.tensor([place[index] for index in rows]),
        allowed=torch.from_numpy(allowed),
        own=torch.from_numpy(own),
        teacher=None if teacher is None else _teacher(batch, rows, columns, allowed & own, teacher),
    )


def known_classes(examples: Iterable[Example]) -> Classes:
    """Classes as far as the examples of the labelled tasks tell them: texts that query–positive pairs link.

    An example has no label, but its query and its positive are of one class. Where the positive is the label's text,
    all texts of a class are linked. Where it is a random other text of the class, the links fall into a few groups, and
    a pair of texts is known to be of one class in 9 of 10 cases in a class of 20, 3 of 4 in one of 100 (by simulation).
    Two texts in different groups may still be of one class.
    """
    above: dict[int, int] = {}

    def top(node: int) -> int:
        above.setdefault(node, node)
        while above[node] != node:
            above[node] = above[above[node]]  # halve the way for those who come later
            node = above[node]
        return node

    for example in examples:
        if example.task_type in LABELLED:
            above[top(_node(example.task, example.query))] = top(_node(example.task, example.positive))
    numbers: dict[int, int] = {}
    return Classes({node: numbers.setdefault(top(node), len(numbers)) for node in list(above)})


def _texts_by_class(batch: Sequence[Example], numbers: Mapping[str, int], classes: Classes) -> dict[int, set[int]]:
    """Class → numbers of the texts known to be of it, for the classes of the batch's labelled tasks."""
    found: dict[int, set[int]] = defaultdict(set)
    for task in {example.task for example in batch if example.task_type in LABELLED}:
        for text, number in numbers.items():
            if (task, text) in classes:
                found[classes[task, text]].add(number)
    return found


def _teacher(
    batch: Sequence[Example], rows: Sequence[int], columns: Sequence[Column], own: np.ndarray, teacher: TeacherScores
) -> torch.Tensor:
    """(b, c) float32: the teacher's scores of each query's own documents, NaN elsewhere."""
    scores = np.full(own.shape, np.nan, dtype=np.float32)
    for row, column in zip(*np.nonzero(own), strict=True):
        known = teacher.get(batch[rows[row]].id, {})
        scores[row, column] = known.get(columns[column].text, np.nan)
    return torch.from_numpy(scores)
