"""What a benchmark ran on: hardware, package versions, commit and date, to print above figures and keep with them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "sentence-transformers", "peft", "safetensors", "numpy", "pyarrow")
# Instruction sets that decide which matrix kernels run, by the names that Linux gives them.
TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_int8", "amx_fp16")


def describe() -> dict[str, Any]:
    """Hardware, versions, commit and date, as JSON takes them. What cannot be told is left out or empty."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "memory_gib": memory_gib(),
        "instructions": instruction_sets(),
        "gpus": gpus(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions(),
    }


def heading() -> str:
    """`describe()` for a reader: a few lines to print first."""
    facts = describe()
    cards = "; ".join(f"{card['name']}, {card['memory_gib']} GiB" for card in facts["gpus"]) or "no GPU"
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    size = f"{facts['cores']} cores, {facts['threads']} threads, {facts['memory_gib']} GiB"
    return "\n".join(
        [
            f"{facts['date']}  commit {facts['commit'] or 'unknown'}",
            f"{facts['cpu']} ({' '.join(facts['instructions']) or 'instruction sets unknown'})",
            f"{size}, load {facts['load']}; {cards}",
            f"Python {facts['python']}, {facts['system']}; {packages}",
        ]
    )


def commit() -> str:
    """The commit that is checked out, `+` behind it where `src/` or `benchmarks/` has changes; or nothing."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + ("+" if head and _git("status", "--porcelain", "--", "src", "benchmarks") else "")


def cpu_model() -> str:
    """The processor by name, with family, model and stepping: virtual machines often hide the name."""
    facts = _cpu_facts()
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    numbers = " ".join(f"{key} {facts[name]}" for key, name in _NUMBERS.items() if name in facts)
    return f"{facts['model name']}, {numbers}"


_NUMBERS = {"family": "cpu family", "model": "model", "stepping": "stepping"}


def instruction_sets() -> list[str]:
    """Those of `TELLING_FLAGS` that the processor has."""
    flags = _cpu_facts().get("flags", "").split()
    return [flag for flag in TELLING_FLAGS if flag in flags]


def memory_gib() -> float | None:
    """Main memory in GiB."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def gpus() -> list[dict[str, Any]]:
    """Name and memory of each CUDA device."""
    found = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found.append({"name": card.name, "memory_gib": round(card.total_memory / 2**30, 1)})
    return found


def versions() -> dict[str, str]:
    """Installed versions of `PACKAGES`."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_facts() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text().split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    print(heading())
