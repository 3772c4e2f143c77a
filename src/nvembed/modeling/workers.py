"""One process a device: the parent hands out texts longest first and puts the vectors back in order.

A worker takes the next piece when it has sent the last, so a slow device does less. Pieces and vectors travel through
one pipe a worker: the end of either process closes it, which the other sees at once, so that a dead worker is an error
and a dead parent ends its workers. Weights travel as a saved folder of safetensors.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from nvembed.core import lifeline
from nvembed.core.errors import UserError
from nvembed.modeling.encoder import Encoder, Report
from nvembed.modeling.plan import Plan

if TYPE_CHECKING:
    from nvembed.modeling.model import NVEmbedModel

logger = logging.getLogger(__name__)
PIECE = 4096
PIECES_A_WORKER = 8


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; small enough for a pipe."""

    folder: str
    device: str
    dtype: str
    threads: int
    plan: Plan
    parent: str


@dataclass
class _Worker:
    device: str
    process: BaseProcess
    pipe: connection.Connection
    rows: np.ndarray | None = None
    encoded: int = 0


class Workers:
    """A `TextEncoder` over several devices. Use it as a context: the processes start on entry and are gone on leaving.

    Args:
        model: what to encode with; adapters go to the workers merged.
        plan: the same for all.
        devices: one process each, by torch's names; a name may be given twice.
        saved: a folder from which `NVEmbedModel.from_pretrained` gives this very model; None: it is written to a
            temporary one, until all workers have read it.

    The calling program must be importable (`if __name__ == "__main__":` around what a script does).
    """

    def __init__(self, model: NVEmbedModel, plan: Plan, devices: Sequence[str], saved: Path | None = None) -> None:
        self._model, self._plan, self._devices, self._saved = model, plan, list(devices), saved
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        try:
            with contextlib.ExitStack() as stack:
                folder = self._saved or self._save(stack)
                for device in self._devices:
                    self._start(device, folder)
                for _ in self._workers:
                    self._receive()
        except BaseException:
            self._end(at_once=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(at_once=kind is not None)

    def encode(self, texts: Sequence[str], report: Report = lambda _: None) -> np.ndarray:
        """Stored vectors of `texts` in their order.

        Raises:
            UserError: what a worker met that the user can mend.
            RuntimeError: a worker failed (with its traceback) or died.
        """
        vectors = self._plan.empty(len(texts))
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        size = max(1, min(PIECE, -(-len(texts) // (PIECES_A_WORKER * len(self._workers)))))
        pieces = iter([np.array(order[start : start + size]) for start in range(0, len(order), size)])
        busy, done = 0, 0
        for worker in self._workers:
            busy += self._hand_out(worker, pieces, texts)
        while busy:
            worker, found = self._receive()
            assert worker.rows is not None
            vectors[worker.rows] = found
            done += len(worker.rows)
            worker.encoded += len(worker.rows)
            busy += self._hand_out(worker, pieces, texts) - 1
            report(done)
        return vectors

    @property
    def shares(self) -> list[int]:
        """Texts that each device has encoded so far."""
        return [worker.encoded for worker in self._workers]

    def _save(self, stack: contextlib.ExitStack) -> Path:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nvembed-weights-"))) / "model"
        return self._model.save_pretrained(folder, check=False)

    def _start(self, device: str, folder: Path) -> None:
        """Spawned, not forked: CUDA and thread pools do not survive a fork."""
        context = multiprocessing.get_context("spawn")
        on_cpu = sum(torch.device(name).type == "cpu" for name in self._devices)
        ours, theirs = context.Pipe()
        job = Job(
            folder=str(folder),
            device=device,
            dtype=str(next(self._model.backbone.parameters()).dtype).removeprefix("torch."),
            threads=max(1, torch.get_num_threads() // max(1, on_cpu)),
            plan=self._plan,
            parent=lifeline.process_identity(os.getpid()) or "",
        )
        process = context.Process(target=work, args=(theirs, job), name=f"nvembed-{device}", daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_Worker(device, process, ours))

    def _hand_out(self, worker: _Worker, pieces: Any, texts: Sequence[str]) -> int:
        """Give a worker the next piece, if there is one; how many it got."""
        worker.rows = next(pieces, None)
        if worker.rows is None:
            return 0
        try:
            worker.pipe.send([texts[row] for row in worker.rows])
        except OSError:
            raise _death(worker) from None
        return 1

    def _receive(self) -> tuple[_Worker, Any]:
        """The next message of any worker; its errors are raised here."""
        ready = connection.wait([worker.pipe for worker in self._workers])
        worker = next(worker for worker in self._workers if worker.pipe in ready)
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            raise _death(worker) from None
        if kind == "user error":
            raise UserError(content)
        if kind == "error":
            raise RuntimeError(f"the worker on {worker.device} failed:\n{content}")
        return worker, content

    def _end(self, *, at_once: bool) -> None:
        for worker in self._workers:
            if at_once:
                worker.process.kill()
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(10)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.process.close()
        self._workers.clear()


def _death(worker: _Worker) -> RuntimeError:
    worker.process.join(10)
    code = worker.process.exitcode
    why = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    hint = "; signal 9 is often the system's answer to memory running out" if code == -signal.SIGKILL else ""
    return RuntimeError(f"the worker on {worker.device} {why} before its work was done{hint}")


def work(pipe: connection.Connection, job: Job) -> None:
    """A worker's life: load, say so, then vectors for texts until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt reaches the parent too, which ends its workers
    if job.parent:
        os.environ[lifeline.ENVIRONMENT] = job.parent
        lifeline.tie_to_parent()
    try:
        device = torch.device(job.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.set_num_threads(job.threads)
        from nvembed.modeling.model import NVEmbedModel

        dtype = getattr(torch, job.dtype)
        model = NVEmbedModel.from_pretrained(job.folder, device=device, dtype=dtype, inference_only=True)
        encoder = Encoder(model, job.plan)
        pipe.send(("ready", None))
        while True:
            pipe.send(("done", encoder.encode(pipe.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has closed the pipe, or is gone
    except UserError as error:
        _say(pipe, "user error", str(error))
    except Exception:  # noqa: BLE001 - the parent raises it
        _say(pipe, "error", traceback.format_exc())


def _say(pipe: connection.Connection, kind: str, content: str) -> None:
    with contextlib.suppress(OSError):
        pipe.send((kind, content))
