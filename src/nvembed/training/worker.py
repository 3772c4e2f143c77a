"""One rank of a training job: `python -m torch.distributed.run … -m nvembed.training.worker JOB.json`.

Rank 0 holds the state folder's lock for as long as any rank lives here, so that no second run writes beside this one.
All ranks end with the process that started the run (`core.lifeline`), and with torchrun.

In the state folder: `checkpoints/`, `metrics.jsonl`, `bad_batches.jsonl` (if there was one), `result/` (there only if
training is complete), `error.json` (what the user has to mend), `worker.log`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from nvembed.core.errors import UserError, tell_full_disk
from nvembed.core.lifeline import tie_to_parent
from nvembed.core.state import hold
from nvembed.training import engine as engines
from nvembed.training.checkpoints import (
    Checkpoint,
    bring_best,
    check_made_by,
    newest_checkpoint,
    read_checkpoint,
    remove_checkpoints,
)
from nvembed.training.job import Job, section, write_error
from nvembed.training.result import read_result

logger = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Run one rank; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    tie_to_parent()
    _end_with_torchrun()
    job = Job.read(Path(arguments[0]))
    state = Path(job.state)
    try:
        with tell_full_disk(state), hold(state) if int(os.environ.get("RANK", "0")) == 0 else nullcontext():
            code = _train(job, state)
            engines.leave_ranks()
            return code
    except UserError as error:
        write_error(state, error)
        return 2


def _end_with_torchrun(every: float = 0.5) -> None:
    """torchrun puts its workers into sessions of their own, so a killed torchrun would leave them behind.

    Without torchrun the parent is the task itself, and the same holds.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=watch, name="nvembed-torchrun", daemon=True).start()


def _train(job: Job, state: Path) -> int:
    """Build, resume, take the steps, keep the result."""
    import torch

    from nvembed.data import BatchSampler, open_examples, read_teacher_scores
    from nvembed.training.build import build_encoder
    from nvembed.training.loop import Loop
    from nvembed.training.peak import peak_flops
    from nvembed.training.schedule import parameter_groups
    from nvembed.training.step import Trainer

    torch.set_num_threads(job.threads)
    stage = section(job.stage)
    engines.load_deepspeed(job.device)
    rank, world, device = engines.join_ranks(job.device)
    logger.info("rank %d of %d, on %s", rank, world, device)
    if _agree(lambda: read_result(state), rank, world):
        return 0  # another run finished this very stage while we waited for its lock
    checkpoint = _agree(lambda: _find_checkpoint(job, state), rank, world)
    tensors = checkpoint.tensors() if checkpoint else {}
    encoder = build_encoder(job, device)
    if checkpoint:
        engines.load_weights(encoder.model, tensors)
    sampler = BatchSampler.of(stage, open_examples(job.dataset), job.without)
    named = {name: p for name, p in encoder.model.named_parameters() if p.requires_grad}
    groups = parameter_groups(named, stage, is_latent=lambda name: name.startswith(("latent.", "self_attention.")))
    engine = engines.start_engine(encoder, groups, stage)
    engine.train()
    if checkpoint:
        taken = checkpoint.step - checkpoint.watched.get("bad_steps", {}).get("skipped", 0)
        engines.load_moments(engine, tensors, taken)
        logger.info("going on from the checkpoint of step %d", checkpoint.step)
    del tensors
    teacher = read_teacher_scores(job.dataset) if stage.distillation.weight else None
    trainer = Trainer(engine, sampler, stage, rank, world, device, teacher)
    measured = partial(peak_flops, device, encoder.precision, state / "peak.json")
    trainer.peak_flops = job.peak_tflops * 1e12 if job.peak_tflops else _agree(measured, rank, world)
    checker = _checker(job, trainer)
    signal.signal(signal.SIGTERM, lambda *_: setattr(trainer, "stop_requested", True))
    return Loop(job, trainer, checker, checkpoint).run()


def _checker(job: Job, trainer: Any) -> Any:
    """The check on dev, where the stage wants one and there is a dev set."""
    from nvembed.training.dev_check import Checker, read_dev_tasks

    stage = trainer.stage
    if not stage.dev_check.every or job.eval_sets is None:
        return None
    tasks = read_dev_tasks(Path(job.eval_sets), stage.dev_check, stage)
    return Checker(trainer.engine, tasks, stage, trainer.rank, trainer.world)


def _find_checkpoint(job: Job, state: Path) -> Checkpoint | None:
    """The checkpoint asked for by name, else the newest whole one here."""
    if job.resume is not None:
        checkpoint = read_checkpoint(Path(job.resume))
        check_made_by(checkpoint, job.made_by)
        bring_best(checkpoint, state / "checkpoints")
        remove_checkpoints(state / "checkpoints", after=checkpoint.step)
        return checkpoint
    return newest_checkpoint(state / "checkpoints")


def _agree(decide: Any, rank: int, world: int) -> Any:
    """What rank 0 decides, on every rank; its UserError too."""
    import torch.distributed as dist

    outcome: list[Any] = [None]
    if rank == 0:
        try:
            outcome = [decide()]
        except UserError as error:
            outcome = [error]
    if world > 1:
        dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], UserError):
        raise outcome[0]
    return outcome[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
