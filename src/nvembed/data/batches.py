"""Which examples a training step sees: a function of seed and step alone.

Nothing is carried from step to step, so a resumed run asks for step 57 and gets the very batch that the undisturbed
run had. Tasks are blended: each epoch is one shuffle of all examples of the wanted task types, so that every task
comes up in proportion to its size.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence

from nvembed.core.errors import UserError
from nvembed.data.example import Example

logger = logging.getLogger(__name__)


class BatchSampler:
    """Batches of different examples, epoch after epoch, each epoch in a new order.

    An epoch's last examples that do not fill a batch are left out of it; the next epoch's order leaves out others.
    """

    def __init__(self, examples: Sequence[Example], batch_size: int, seed: int, task_types: Iterable[str]) -> None:
        """Take the examples of the wanted task types.

        Raises UserError if they do not fill one batch.
        """
        wanted = list(dict.fromkeys(task_types))
        present = {example.task_type for example in examples}
        missing = [name for name in wanted if name not in present]
        if missing:
            logger.warning("no training examples of task type %s; the batches do without", ", ".join(missing))
        self.examples = [example for example in examples if example.task_type in wanted]
        self.batch_size = batch_size
        self.seed = seed
        if len(self.examples) < batch_size:
            raise UserError(
                f"batch_size {batch_size}: only {len(self.examples)} training examples of {', '.join(wanted)}; "
                "lower the stage's batch_size or give more data"
            )
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass over the examples."""
        return len(self.examples) // self.batch_size

    def batch(self, step: int) -> list[Example]:
        """The batch of a step, counted from 0; any step may be asked for at any time."""
        if step < 0:
            raise ValueError(f"step {step} is below 0")
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        return [self.examples[index] for index in self._epoch_order(epoch)[start : start + self.batch_size]]

    def _epoch_order(self, epoch: int) -> list[int]:
        if self._order[0] != epoch:  # kept only because shuffling millions anew for every step would take seconds
            order = list(range(len(self.examples)))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
            self._order = (epoch, order)
        return self._order[1]
