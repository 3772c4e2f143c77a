"""Steps that would spoil the weights: told apart before any weight changes, kept for inspection, left out or fatal.

A loss is judged before the backward pass, a gradient's norm before the optimiser's step. Both are the same number on
every rank, so all ranks decide alike without a word. What decides (`BadStepJudge.state`) travels in checkpoints, so a
resumed run leaves out the very steps that the undisturbed one does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import write_file
from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from nvembed.data import Example
    from nvembed.recipe import BadSteps

BAD_BATCHES = "bad_batches.jsonl"


class BadStepJudge:
    """Says which steps are bad, by the losses of the steps taken so far.

    Attributes:
        skipped: steps left out so far.
        in_a_row: steps left out since the last one that was taken.
    """

    def __init__(self, rule: BadSteps) -> None:
        self.rule = rule
        self.skipped = self.in_a_row = 0
        self._losses: list[float] = []

    def of_loss(self, loss: float) -> str | None:
        """What is wrong with a batch's loss; None if nothing."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        factor, window = self.rule.spike_factor, self.rule.spike_window
        if factor is not None and len(self._losses) == window:
            usual = median(self._losses)
            if loss > factor * usual:
                return f"the loss {loss:.4g} is above {factor:g} times {usual:.4g}, the median of {window} steps"
        return None

    def of_gradient(self, norm: float) -> str | None:
        """What is wrong with the gradients, by their norm; None if nothing."""
        return None if math.isfinite(norm) else f"the gradients' norm is {norm}"

    def note(self, loss: float, bad: str | None) -> None:
        """A step is over: taken with this loss, or left out for a reason."""
        if bad:
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        else:
            self.in_a_row = 0
            self._losses = [*self._losses, loss][-self.rule.spike_window :]

    def state(self) -> dict[str, Any]:
        """All that decides, in JSON values; floats survive JSON bit for bit."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "losses": self._losses}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.skipped, self.in_a_row, self._losses = state["skipped"], state["in_a_row"], list(state["losses"])


class BadBatches:
    """The file that names what stood in bad steps' batches: ids of examples, queries and documents."""

    def __init__(self, state: Path, upto: int) -> None:
        """Keep the entries of `upto` steps; later ones are of work that was lost and will be done again."""
        self.path = state / BAD_BATCHES
        kept = [entry for entry in read_bad_batches(self.path) if entry["step"] <= upto]
        if self.path.exists():
            write_file(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))

    def add(self, step: int, why: str, batch: Sequence[Example], loss: float, norm: float) -> None:
        """Keep one batch."""
        from nvembed.data.store import document_id, query_id

        entry = {
            "step": step,
            "why": why,
            "loss": str(loss) if not math.isfinite(loss) else loss,
            "grad_norm": str(norm) if not math.isfinite(norm) else norm,
            "examples": [
                {
                    "id": one.id,
                    "query": query_id(one.query),
                    "documents": [document_id(text) for text in (one.positive, *one.negatives)],
                }
                for one in batch
            ],
        }
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")


def read_bad_batches(path: Path) -> list[dict[str, Any]]:
    """Entries of the file, none if it is missing. A line torn by a kill is passed over."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def stop_or_go_on(judge: BadStepJudge, step: int, why: str, where: Path) -> None:
    """What the recipe says to a bad step (from 1) whose batch is kept in the folder `where`.

    Raises UserError where the run is to stop: at once, or after too many skips in a row.
    """
    kept = f"no weight was changed by it; the ids of its batch are in {where / BAD_BATCHES}"
    if judge.rule.policy == "stop":
        raise UserError(
            f"step {step}: {why}; {kept}; lower learning_rate, look at these texts, or set bad_steps.policy=skip"
        )
    if judge.in_a_row >= judge.rule.max_in_a_row:
        raise UserError(
            f"step {step}: {why}; {judge.in_a_row} steps in a row were left out, as many as bad_steps.max_in_a_row; "
            f"{kept}; lower learning_rate or look at these texts"
        )
