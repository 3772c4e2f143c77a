"""One rank of a training job: `python -m torch.distributed.run … -m nvembed.training.worker JOB.json`.

Rank 0 holds the state folder's lock for as long as any rank lives here, so that no second run writes beside this one.
All ranks end with the process that started the run (`core.lifeline`), and with torchrun.

In the state folder: `checkpoints/`, `metrics.jsonl`, `result/` (there only if training is complete), `error.json` (what
the user has to mend), `worker.log`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from nvembed.core.artifacts import write_file
from nvembed.core.errors import UserError
from nvembed.core.lifeline import tie_to_parent
from nvembed.core.progress import Progress
from nvembed.core.state import hold
from nvembed.training import engine as engines
from nvembed.training.checkpoints import (
    Checkpoint,
    check_made_by,
    newest_checkpoint,
    read_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from nvembed.training.history import METRICS, History
from nvembed.training.job import Job, section
from nvembed.training.result import read_result, write_result
from nvembed.training.settings import KEYS

logger = logging.getLogger(__name__)
STOPPED = 143  # 128 + SIGTERM: ended on request, a checkpoint is there


def main(arguments: list[str]) -> int:
    """Run one rank; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    tie_to_parent()
    _end_with_torchrun()
    job = Job.read(Path(arguments[0]))
    state = Path(job.state)
    try:
        with hold(state) if int(os.environ.get("RANK", "0")) == 0 else nullcontext():
            code = _train(job, state)
            engines.leave_ranks()
            return code
    except UserError as error:
        write_file(state / "error.json", json.dumps({"error": str(error)}) + "\n")
        return 2


def _end_with_torchrun(every: float = 0.5) -> None:
    """torchrun puts its workers into sessions of their own, so a killed torchrun would leave them behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=watch, name="nvembed-torchrun", daemon=True).start()


def _train(job: Job, state: Path) -> int:
    """Build, resume, take the steps, keep the result."""
    import torch

    from nvembed.data import BatchSampler, read_examples, read_teacher_scores
    from nvembed.training.build import build_encoder
    from nvembed.training.schedule import parameter_groups
    from nvembed.training.step import Trainer

    torch.set_num_threads(job.threads)
    stage = section(job.stage)
    engines.load_deepspeed(job.device)
    rank, world, device = engines.join_ranks(job.device)
    if _agree(lambda: read_result(state), rank, world):
        return 0  # another run finished this very stage while we waited for its lock
    checkpoint = _agree(lambda: _find_checkpoint(job, state), rank, world)
    tensors = checkpoint.tensors() if checkpoint else {}
    encoder = build_encoder(job, device)
    if checkpoint:
        engines.load_weights(encoder.model, tensors)
    sampler = BatchSampler(read_examples(job.dataset), stage.batch_size, stage.seed, stage.task_types)
    named = {name: p for name, p in encoder.model.named_parameters() if p.requires_grad}
    groups = parameter_groups(named, stage, is_latent=lambda name: name.startswith(("latent.", "self_attention.")))
    engine = engines.start_engine(encoder, groups, stage)
    engine.train()
    done, seconds = 0, 0.0
    if checkpoint:
        engines.load_moments(engine, tensors, checkpoint.step)
        done, seconds = checkpoint.step, checkpoint.seconds
        logger.info("going on from the checkpoint of step %d", done)
    del tensors
    teacher = read_teacher_scores(job.dataset) if stage.distillation.weight else None
    trainer = Trainer(engine, sampler, stage, rank, world, device, teacher)
    signal.signal(signal.SIGTERM, lambda *_: setattr(trainer, "stop_requested", True))
    history = History(state / METRICS, stage.log_steps, done) if rank == 0 else None
    return _loop(job, state, trainer, history, done, seconds)


def _loop(job: Job, state: Path, trainer: Any, history: History | None, done: int, seconds: float) -> int:
    """Take steps `done` … `steps`; checkpoints on the way; the result at the end."""
    stage = trainer.stage
    progress = Progress(f"training {job.name}", stage.steps) if history else None
    began = time.monotonic() - seconds
    for step in range(done, stage.steps):
        result = trainer.step(step)
        if history and progress:
            history.add(result.record)
            progress.update(step + 1, _describe(result.record, stage.steps - step - 1, time.monotonic() - began))
        finished = step + 1 == stage.steps
        if not finished and (result.stop or (step + 1) % stage.checkpoint_steps == 0):
            _checkpoint(job, state, trainer, step + 1, time.monotonic() - began)
        if result.stop and not finished:
            logger.info("stopped on request after step %d; its checkpoint is kept", step + 1)
            return STOPPED
    _finish(job, state, trainer, time.monotonic() - began)
    return 0


def _checkpoint(job: Job, state: Path, trainer: Any, step: int, seconds: float) -> None:
    tensors = engines.export_state(trainer.engine)
    if trainer.rank == 0:
        save_checkpoint(
            state / "checkpoints",
            tensors,
            step=step,
            seconds=seconds,
            made_by=job.made_by,
            keep=trainer.stage.keep_checkpoints,
        )


def _finish(job: Job, state: Path, trainer: Any, seconds: float) -> None:
    """Keep the trained weights and what they took; checkpoints have then done their work."""
    with engines.gathered(trainer.engine):
        if trainer.rank == 0:
            encoder = trainer.engine.module
            settings = {key: getattr(trainer.stage, key) for key in KEYS}  # what `auto` became, too
            facts = {
                "seconds": seconds,
                "world": trainer.world,
                "precision": encoder.precision,
                "settings": settings,
            }
            write_result(state, encoder.model, facts)
            remove_checkpoints(state / "checkpoints")


def _find_checkpoint(job: Job, state: Path) -> Checkpoint | None:
    """The checkpoint asked for by name, else the newest whole one here."""
    if job.resume is not None:
        checkpoint = read_checkpoint(Path(job.resume))
        check_made_by(checkpoint, job.made_by)
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


def _describe(record: dict[str, float], left: int, seconds: float) -> str:
    """The step in a few words: loss, speed, time left."""
    eta = left * seconds / max(record["step"], 1)
    minutes, rest = divmod(round(eta), 60)
    return f"loss {record['loss']:.3f}, {record['examples_per_second']:.1f} examples/s, {minutes}:{rest:02d} left"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
