"""The loop of one rank: steps, the checks between them, checkpoints, the result.

Rank 0 keeps the files; what it decides by its clock reaches the others through their next step (`Trainer._cut`), and
all else is decided by numbers that every rank has.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.core.progress import Progress, note
from nvembed.training import engine as engines
from nvembed.training.bad_steps import BadBatches, stop_or_go_on
from nvembed.training.checkpoints import (
    Checkpoint,
    checkpoint_folder,
    read_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from nvembed.training.dev_check import SCORE, Best, Checker, decides
from nvembed.training.history import METRICS, History
from nvembed.training.result import write_result
from nvembed.training.settings import KEYS

if TYPE_CHECKING:
    from nvembed.training.job import Job
    from nvembed.training.step import StepResult, Trainer

logger = logging.getLogger(__name__)
STOPPED = 143  # 128 + SIGTERM: ended on request, a checkpoint is there


class Loop:
    """Takes a stage's steps from a checkpoint, or from nothing, to the end.

    Args:
        job: what is trained.
        trainer: takes the steps.
        checker: the check on dev, or None.
        checkpoint: where to go on from.
    """

    def __init__(self, job: Job, trainer: Trainer, checker: Checker | None, checkpoint: Checkpoint | None) -> None:
        self.job, self.trainer, self.checker, self.stage = job, trainer, checker, trainer.stage
        self.state = Path(job.state)
        self.done = checkpoint.step if checkpoint else 0
        watched = checkpoint.watched if checkpoint else {}
        self.best = Best(**watched.get("best", {}))
        if "bad_steps" in watched:
            trainer.judge.restore(watched["bad_steps"])
        self._began = time.monotonic() - (checkpoint.seconds if checkpoint else 0.0)
        self._kept = time.monotonic()
        self._history = History(self.state / METRICS, self.stage.log_steps, self.done) if trainer.rank == 0 else None
        self._bad = BadBatches(self.state, self.done) if trainer.rank == 0 else None
        self._progress = Progress(f"training {job.name}", self.stage.steps) if trainer.rank == 0 else None

    @property
    def seconds(self) -> float:
        """Spent on this stage so far, earlier attempts' steps that still count among them."""
        return time.monotonic() - self._began

    def run(self) -> int:
        """Take the steps that are left; the exit code. Raises UserError for a bad step that stops the run."""
        for step in range(self.done, self.stage.steps):
            self.trainer.checkpoint_requested = self._is_time_for_a_checkpoint()
            result = self.trainer.step(step)
            self.done = step + 1
            if result.bad:
                self._left_out(result)
            checked = self.checker() if self.checker and self.checker.is_due(self.done) else {}
            self._tell(result.record | checked)
            is_best = self._is_best(checked)
            ended = self.done == self.stage.steps or self._is_in_vain()
            wanted = result.asked.stop or result.asked.checkpoint or self.done % self.stage.checkpoint_steps == 0
            if (is_best or wanted) and not ended:
                self._checkpoint()
            if ended:
                break
            if result.asked.stop:
                logger.info("stopped on request after step %d; its checkpoint is kept", self.done)
                return STOPPED
        self._finish()
        return 0

    def _is_time_for_a_checkpoint(self) -> bool:
        minutes = self.stage.checkpoint_minutes
        return self.trainer.rank == 0 and minutes is not None and time.monotonic() - self._kept >= 60 * minutes

    def _left_out(self, result: StepResult) -> None:
        """Keep what a bad step's batch held; stop if the recipe says so."""
        assert result.bad is not None
        if self._bad:
            self._bad.add(self.done, result.bad, result.batch, result.loss, result.grad_norm)
        logger.warning("step %d: %s; no weight was changed", self.done, result.bad)
        stop_or_go_on(self.trainer.judge, self.done, result.bad, self.state)

    def _tell(self, record: dict[str, float]) -> None:
        if self._history and self._progress:
            self._history.add(record)
            self._progress.update(self.done, _describe(record, self.stage.steps - self.done, self.seconds))

    def _is_best(self, checked: dict[str, float]) -> bool:
        """Whether this check is the best of a stage whose checks decide; counts it in any case."""
        if not checked:
            return False
        self.best = self.best.after(self.done, checked[SCORE], self.stage.dev_check.min_gain)
        return self._decides and self.best.step == self.done

    def _is_in_vain(self) -> bool:
        """Whether the checks have gained nothing for as long as the recipe has patience."""
        patience = self.stage.dev_check.patience
        if not patience or self.best.checks_since < patience:
            return False
        if self.trainer.rank == 0:
            note(
                f"{self.job.name} ends at step {self.done} of {self.stage.steps}: no gain on dev in {patience} checks "
                f"since step {self.best.step} ({self.best.score:.3f} nDCG@10)"
            )
        return True

    def _checkpoint(self) -> None:
        tensors = engines.export_state(self.trainer.engine)
        if self.trainer.rank == 0:
            save_checkpoint(
                self.state / "checkpoints",
                tensors,
                step=self.done,
                seconds=self.seconds,
                made_by=self.job.made_by,
                keep=self.stage.keep_checkpoints,
                watched={"bad_steps": self.trainer.judge.state(), "best": self.best.state() if self._decides else {}},
            )
        self._kept = time.monotonic()

    @property
    def _decides(self) -> bool:
        return self.checker is not None and decides(self.stage.dev_check)

    def _finish(self) -> None:
        """Keep the trained weights and what they took; checkpoints have then done their work."""
        trainer, given = self.trainer, self.best.step if self._decides else self.done
        with engines.gathered(trainer.engine):
            if trainer.rank == 0:
                encoder = trainer.engine.module
                if given != self.done:
                    best = read_checkpoint(checkpoint_folder(self.state / "checkpoints", given))
                    engines.load_weights(encoder.model, best.tensors())
                facts = {
                    "seconds": self.seconds,
                    "world": trainer.world,
                    "precision": encoder.precision,
                    "steps": self.done,
                    "weights_of_step": given,
                    "skipped": trainer.judge.skipped,
                    "settings": {key: getattr(self.stage, key) for key in KEYS},  # what `auto` became, too
                }
                write_result(self.state, encoder.model, facts)
                remove_checkpoints(self.state / "checkpoints")


def _describe(record: dict[str, float], left: int, seconds: float) -> str:
    """The step in a few words: loss, speed, time left."""
    eta = left * seconds / max(record["step"], 1)
    minutes, rest = divmod(round(eta), 60)
    loss = f"loss {record['loss']:.3f}" if "loss" in record else "left out"
    return f"{loss}, {record['examples_per_second']:.1f} examples/s, {minutes}:{rest:02d} left"
