"""Which examples a training step sees: a function of seed and step alone.

Nothing is carried from step to step, so a resumed run asks for step 57 and gets the very batch that the undisturbed
run had, and so does each rank of any number of them. What an epoch holds of each dataset stands in `mixture`, how it
is put in order here and in `arrange`:

- blended (the paper): one shuffle of all of an epoch's examples, cut into batches. With plain keys that is every
  example once, so that each task comes up in proportion to its size. What fills no batch at the end is left out; the
  next epoch's order leaves out others.
- one-dataset: each dataset's examples are shuffled and cut by themselves, then the batches of all are shuffled.

A batch never holds an example twice. With 2 million examples an epoch's order takes 8 MB and about a second of a core
(`benchmarks/examples.py`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

import numpy as np

from nvembed.core.errors import UserError
from nvembed.data.arrange import group_by_length, separate
from nvembed.data.columns import Chosen, Columns, InMemory
from nvembed.data.example import Example
from nvembed.data.lengths import Lengths
from nvembed.data.mixture import Batches, Walk, datasets_of, shuffled
from nvembed.data.stages import rows_of

logger = logging.getLogger(__name__)


class BatchSampler:
    """Batches of different examples, epoch after epoch, each epoch in a new order."""

    def __init__(
        self,
        examples: Sequence[Example] | Columns,
        batch_size: int,
        seed: int,
        task_types: Iterable[str],
        batches: Any = None,
        lengths: Lengths | None = None,
        without: Collection[str] = (),
    ) -> None:
        """Take the examples of the wanted task types.

        Args:
            examples: all there are, in a list or an `ExampleTable`.
            batch_size: examples of a batch.
            seed: decides every order and choice.
            task_types: whose examples are drawn.
            batches: the recipe's section of that name; None: its defaults.
            lengths: what of an example is encoded; used to group batches by length.
            without: sources whose examples are not drawn (`nvembed.data.stages`).

        Raises:
            UserError: the examples do not fill one batch, a name in `batches` that is no task or source, a weight that
                would put an example into a batch twice.
        """
        columns = InMemory(examples) if isinstance(examples, list | tuple) else cast(Columns, examples)
        wanted = list(dict.fromkeys(task_types))
        (tasks, task_names), (sources, source_names), (types, type_names) = (
            columns.codes(name) for name in ("task", "source", "task_type")
        )
        rows = rows_of((types, type_names), (sources, source_names), wanted, without)
        there = {type_names[code] for code in np.unique(types[rows])}
        if missing := [name for name in wanted if name not in there]:
            logger.warning("no training examples of task type %s; the batches do without", ", ".join(missing))
        self.examples = Chosen(columns, rows)
        self.batch_size, self.seed, self.task_types = batch_size, seed, wanted
        self.batches = Batches() if batches is None else Batches.of(batches)
        self.lengths = lengths or Lengths()
        if len(rows) < batch_size:
            raise UserError(self._too_few(len(rows), "give more data"))
        self.datasets = datasets_of(
            [tasks[rows], sources[rows], types[rows]],
            [task_names, source_names, type_names],
            self.batches,
            batch_size,
        )
        self._check_quotas()
        self._walk = Walk(self.datasets, seed)
        self._labels: dict[str, np.ndarray] = {}
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=np.int32))

    @classmethod
    def of(cls, stage: Any, examples: Sequence[Example] | Columns, without: Collection[str] = ()) -> BatchSampler:
        """A stage's sampler. Raises UserError as the constructor does."""
        lengths = Lengths(stage.negatives, stage.query_max_length, stage.document_max_length)
        return cls(examples, stage.batch_size, stage.seed, stage.task_types, stage.batches, lengths, without)

    @property
    def examples_per_epoch(self) -> int:
        """Examples of an epoch, repeated ones counted as often as they occur."""
        return sum(dataset.quota for dataset in self.datasets)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of an epoch."""
        return self.examples_per_epoch // self.batch_size

    def batch(self, step: int) -> list[Example]:
        """The batch of a step, counted from 0; any step may be asked for at any time."""
        return [self.examples[index] for index in self.places(step)]

    def places(self, step: int) -> list[int]:
        """The places of a step's examples in `examples`."""
        if step < 0:
            raise ValueError(f"step {step} is below 0")
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:  # kept only because shuffling millions anew for every step would take seconds
            self._order = (epoch, self._epoch_order(epoch))
        start = position * self.batch_size
        return self._order[1][start : start + self.batch_size].tolist()

    def of_types(self, task_types: Collection[str]) -> Chosen:
        """The examples of some task types."""
        rows = [dataset.rows for dataset in self.datasets if dataset.task_type in task_types]
        places = np.sort(np.concatenate(rows)) if rows else np.zeros(0, dtype=np.int32)
        return Chosen(self.examples.columns, self.examples.rows[places])

    def _epoch_order(self, epoch: int) -> np.ndarray:
        used = [dataset for dataset in self.datasets if dataset.quota]
        if self.batches.mode == "blended":
            rows = np.sort(np.concatenate([self._walk.rows(dataset, epoch) for dataset in used]))
            return self._in_batches(rows, f"{self.seed}/{epoch}", max(dataset.most for dataset in used))
        parts = [
            self._in_batches(self._walk.rows(dataset, epoch), f"{self.seed}/{epoch}/{dataset.name}", dataset.most)
            for dataset in used
        ]
        turns = shuffled(self.steps_per_epoch, f"{self.seed}/{epoch}")
        return np.concatenate(parts).reshape(-1, self.batch_size)[turns].ravel()

    def _in_batches(self, rows: np.ndarray, seed: str, most: int) -> np.ndarray:
        """Rows in a random order such that each `batch_size` of them are a batch; `most`: how often one occurs."""
        order, draw = rows[shuffled(len(rows), seed)].astype(np.int32), random.Random(f"{seed}/arrange")
        if self.batches.group_by_length:
            order = group_by_length(order, self.batch_size, self._label("length"), draw)
        if self.batches.distinct_texts:
            labels = [self._separable(order, self._label(name)) for name in ("query", "positive")]
            order = separate(order, self.batch_size, labels, draw, always=False)
        if most > 1:
            itself = np.arange(len(self.examples), dtype=np.int32)
            order = separate(order, self.batch_size, [itself], draw, always=True)
        return order

    def _separable(self, order: np.ndarray, label: np.ndarray) -> np.ndarray:
        """A label by place, made different for those that occur oftener than there are batches: no use to try."""
        values, inverse = np.unique(label, return_inverse=True)
        often = np.bincount(inverse[order], minlength=len(values)) > len(order) // self.batch_size
        return np.where(often[inverse], len(values) + np.arange(len(label)), inverse)

    def _label(self, name: str) -> np.ndarray:
        """Length, or digest of query or positive, of each example by place; found out once."""
        if name not in self._labels:
            columns = self.examples.columns
            found = columns.tokens(self.lengths) if name == "length" else columns.keys(name)
            self._labels[name] = found[self.examples.rows]
        return self._labels[name]

    def _check_quotas(self) -> None:
        if self.steps_per_epoch == 0:
            raise UserError(self._too_few(self.examples_per_epoch, "raise the weights or caps of its batches"))
        for dataset in self.datasets:
            if dataset.most > self.steps_per_epoch:
                raise UserError(
                    f"batches: an epoch of {self.steps_per_epoch} steps would hold examples of {dataset.name} "
                    f"{dataset.most} times, so a batch would hold one twice; lower its weight or the temperature"
                )

    def _too_few(self, count: int, mend: str) -> str:
        return (
            f"batch_size {self.batch_size}: only {count} training examples of {', '.join(self.task_types)}; "
            f"lower the stage's batch_size or {mend}"
        )
