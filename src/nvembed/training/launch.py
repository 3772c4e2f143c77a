"""Starting the ranks: one process, or torchrun over several, as a child whose life ends with ours."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from nvembed.core import lifeline
from nvembed.core.errors import UserError
from nvembed.training.job import read_error, reserve_error

GRACE = 60  # seconds for the ranks to end their step and write a checkpoint
WORKER = "nvembed.training.worker"
_TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
_ALONE = {  # what torchrun tells the only rank of one machine; port 0: whichever is free
    **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"},
}


def run_workers(job: Path, *, device: str, processes: int, threads: int, log: Path) -> None:
    """Run `nvembed.training.worker` on `processes` ranks until all have ended.

    Args:
        job: a job file; `error.json` is looked for beside it.
        device: `cpu` or `cuda`.
        processes: ranks on this machine.
        threads: CPU threads of a rank.
        log: gets what the ranks say, appended.

    Raises:
        UserError: a rank met something the user has to mend.
        RuntimeError: the ranks failed; the message ends with the log's last lines.
    """
    reserve_error(job.parent)
    environment, worker = _environment(device, threads), ["-m", WORKER, str(job)]
    if processes == 1:  # torchrun has nothing to bring together, and takes seconds to start and to end
        environment |= _ALONE
        command = [sys.executable, *worker]
    else:
        command = [*_TORCHRUN, "--standalone", f"--nproc-per-node={processes}", *worker]
    with log.open("ab") as stream:
        start = stream.tell()
        code = _wait(command, environment, stream)
    if code == 0:
        return
    if told := read_error(job.parent):
        raise UserError(told)
    with log.open("rb") as stream:
        stream.seek(start)
        lines = stream.read().decode("utf-8", "replace").splitlines()
    killed = code == -signal.SIGKILL or any("Signal 9 (SIGKILL)" in line for line in lines)
    why = "; a rank was killed from outside, most often because memory ran out" if killed else ""
    raise RuntimeError(f"training ended with exit code {code}{why}; log: {log}\n" + "\n".join(lines[-30:]))


def run_node_workers(job: Path, *, device: str, threads: int) -> int:
    """Run this node's ranks of a job that goes over several nodes; torchrun's exit code.

    How many nodes and ranks there are and where they meet is in the environment (PET_NNODES, PET_NPROC_PER_NODE,
    PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT), as Kubeflow Trainer and torchrun agreed. What the ranks say goes
    to our own output, each line behind its rank.
    """
    with tempfile.TemporaryDirectory(prefix="torchrun-") as logs:
        command = [*_TORCHRUN, "--tee=3", f"--log-dir={logs}", "-m", WORKER, str(job)]
        environment = _environment(device, threads, one_machine=False)
        environment["TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"] = "[rank ${rank}] "
        return _wait(command, environment, None)


def _wait(command: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | None) -> int:
    """Run a command to its end; whatever ends us ends it first."""
    with lifeline.sigterm_raises():
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            env=environment,
            start_new_session=True,
        )
        try:
            return process.wait()
        except BaseException:
            _end(process)
            raise


def cpu_cores() -> int:
    """Cores that this process may use: by affinity, and by a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))  # "max" is no number: no quota
    return cores


def _environment(device: str, threads: int, *, one_machine: bool = True) -> dict[str, str]:
    """Ours, with the ranks tied to this process and their threads counted out."""
    environment = dict(os.environ)
    environment[lifeline.ENVIRONMENT] = lifeline.process_identity(os.getpid()) or f"{os.getpid()}:"
    environment["OMP_NUM_THREADS"] = str(threads)
    environment["PYTHONUNBUFFERED"] = "1"
    environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(GRACE)  # torchrun's own is 30: less than a large model's step
    # By default OpenMP threads spin for milliseconds while they wait, which makes a step ten times slower as soon as
    # another program wants a core. Some microseconds cost nothing on an idle machine and little on a busy one.
    environment.setdefault("GOMP_SPINCOUNT", "5000")
    environment.setdefault("TOKENIZERS_PARALLELISM", "true" if threads > 1 else "false")
    if device == "cpu":
        environment["DS_ACCELERATOR"] = "cpu"
        if one_machine and sys.platform == "linux":
            # a machine whose own name does not resolve must not stop its ranks from meeting
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment


def _end(process: subprocess.Popen[bytes]) -> None:
    """End torchrun and its ranks: asked first, so that they write a checkpoint, then killed.

    Ranks that torchrun left behind end by themselves (`worker._end_with_torchrun`).
    """
    for request, patience in ((signal.SIGTERM, GRACE + 5), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, request)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)
            return
