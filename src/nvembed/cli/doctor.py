"""What `nvembed doctor` looks at on this machine: each check says what it found and, where it is wrong, how to mend it.

A check never raises: what it cannot find out is a finding of its own. Nothing is changed but for a probe file that is
written and removed again.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from nvembed.core.errors import UserError
from nvembed.core.findings import Finding, guarded

GB = 1e9
LEAST_DISK, LEAST_SHM = 10 * GB, 1 * GB


def local_findings(store: str | None = None) -> Iterator[Finding]:
    """Versions, processor, memory, GPUs, NCCL, disk, tracking server and, if one is given, object store."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("machine", _machine),
        ("GPU", _gpus),
        ("disk", _disk),
        ("tracking", _tracking),
        ("store", lambda: _store(store)),
    ]
    for name, check in checks:
        yield from guarded(name, check)


def _versions() -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    from packaging.requirements import Requirement

    missing: list[str] = []
    misfits: list[str] = []
    found: list[str] = []
    for line in metadata.requires("nvembed") or []:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": "laptop"}):
            continue
        if need.name == "nvembed":
            continue
        try:
            have = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            (missing if need.marker else misfits).append(need.name)
            continue
        found.append(f"{need.name} {have}")
        if not need.specifier.contains(have.partition("+")[0], prereleases=True):
            misfits.append(f"{need.name} {have} (needs {need.specifier})")
    shown = [line for line in found if line.split()[0] in ("torch", "transformers", "peft")]
    if misfits:
        mend = "install with the repository's constraints.txt: pip install -c constraints.txt nvembed"
        yield Finding("packages", "wrong", f"do not fit: {', '.join(misfits)}", mend)
    else:
        yield Finding("packages", "ok", ", ".join(shown))
    for group, name in (("train", "deepspeed"), ("pipeline", "kfp"), ("pipeline", "mlflow"), ("eval", "mteb")):
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "absent", f"not installed; pip install 'nvembed[{group}]'")


def _machine() -> Iterator[Finding]:
    from nvembed.modeling.batching import cpu_has_bf16

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    says = "with" if cpu_has_bf16() else "without"
    yield Finding("processor", "ok", f"{cores} cores {says} bf16 instructions")
    try:
        import psutil

        memory = psutil.virtual_memory()
        yield Finding("memory", "ok", f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB free")
    except ImportError:
        yield Finding("memory", "absent", "psutil is not installed")


def _gpus() -> Iterator[Finding]:
    import torch

    if torch.version.cuda is None:
        yield Finding("GPU", "absent", f"torch {torch.__version__} is a build for CPUs")
        return
    if not torch.cuda.is_available():
        driver = shutil.which("nvidia-smi")
        says = f"torch is built for CUDA {torch.version.cuda} but finds no GPU"
        if driver:
            mend = "the driver is there: is it too old for this CUDA, or CUDA_VISIBLE_DEVICES empty?"
            yield Finding("GPU", "wrong", says, mend)
        else:
            yield Finding("GPU", "absent", says)
        return
    for index in range(torch.cuda.device_count()):
        yield _one_gpu(torch, index)
    yield Finding("driver", "ok", f"{_driver() or 'version unknown'}, CUDA {torch.version.cuda}")
    version = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else None
    if version:
        yield Finding("NCCL", "ok", version)
    else:
        yield Finding("NCCL", "wrong", "torch was built without it", "several GPUs need it: take PyTorch's own build")
    shm = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    if shm < LEAST_SHM and torch.cuda.device_count() > 1:
        mend = "mount a larger one (the pipeline's own pods have it; docker: --shm-size=8g)"
        yield Finding("/dev/shm", "warning", f"{shm / GB:.2f} GB; NCCL wants more among several GPUs", mend)


def _one_gpu(torch: Any, index: int) -> Finding:
    name = f"GPU {index}"
    try:
        about = torch.cuda.get_device_properties(index)
        ones = torch.ones(64, 64, device=f"cuda:{index}", dtype=torch.bfloat16)
        right = bool(((ones @ ones) == 64).all())
    except RuntimeError as error:
        return Finding(name, "wrong", " ".join(str(error).split())[:160], "is another process holding it?")
    says = f"{about.name}, {about.total_memory / GB:.0f} GB, compute capability {about.major}.{about.minor}"
    return Finding(name, "ok", says) if right else Finding(name, "wrong", f"{says}; it multiplies wrongly")


def _driver() -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else str(version)
    except Exception:  # noqa: BLE001 - the binding, or what it binds to, is not there
        return None


def _disk() -> Iterator[Finding]:
    from nvembed.core.state import state_root

    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    for name, folder in (("state", state_root()), ("scratch", Path(tempfile.gettempdir())), ("model cache", cache)):
        nearest = folder
        while not nearest.exists():
            nearest = nearest.parent
        free = shutil.disk_usage(nearest).free
        try:
            with tempfile.TemporaryFile(dir=nearest):
                pass
        except OSError as error:
            yield Finding(name, "wrong", f"{folder}: cannot be written ({error.strerror})", "name a writable folder")
            continue
        enough = free >= LEAST_DISK
        mend = "" if enough else "free some, or set NVEMBED_STATE, TMPDIR or HF_HOME to a larger disk"
        yield Finding(name, "ok" if enough else "warning", f"{folder}: {free / GB:.0f} GB free", mend)


def _tracking() -> Iterator[Finding]:
    from nvembed import tracking

    uri = tracking.tracking_uri()
    if uri is None:
        yield Finding("MLflow", "absent", "MLFLOW_TRACKING_URI is not set; `nvembed run` keeps a store of its own")
        return
    try:
        tracking.check_server(uri)
        yield Finding("MLflow", "ok", tracking.shown(uri))
    except UserError as error:
        yield Finding("MLflow", "wrong", str(error))


def _store(url: str | None) -> Iterator[Finding]:
    if url is None:
        yield Finding("object store", "absent", "none given (--store s3://bucket/folder tries one)")
        return
    import fsspec

    probe = f"{url.rstrip('/')}/.nvembed-doctor-{uuid.uuid4().hex[:12]}"
    try:
        system, path = fsspec.core.url_to_fs(probe)
        system.pipe_file(path, b"probe")
        right = system.cat_file(path) == b"probe"
        system.rm_file(path)
    except Exception as error:  # noqa: BLE001 - each store has its own exceptions
        said = " ".join(str(error).split())[:160]
        mend = "look at its address (AWS_ENDPOINT_URL for one of your own), the bucket and the credentials"
        yield Finding("object store", "wrong", f"{url}: {type(error).__name__}: {said}", mend)
        return
    says = "written, read and removed" if right else "gives back other bytes than it was given"
    yield Finding("object store", "ok" if right else "wrong", f"{url}: {says}")
