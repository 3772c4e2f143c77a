"""Can this machine do it? Checks Python, disk and memory before anything is installed; says how long it will take.

Needs nothing but the standard library, and nothing newer than Python 3.7, so that an old Python gets an answer too.
"""

import argparse
import contextlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

PYTHON = (3, 11)
NEWEST = (3, 14)  # mteb and several wheels do not go beyond
DISK_GB = 8
DISK_INSTALLED_GB = 2
MEMORY_GB = 4
MINUTES = {"tiny": 1.5, "laptop": 7, "laptop-llm": 35}  # on two cores with bf16 instructions
INSTALL_MINUTES = 4


def memory_bytes():
    """Memory of this machine, or of the container if it allows less; None where neither is known."""
    known = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            known.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(known) if known else None


def cores():
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bf16():
    """Does the processor have bf16 instructions? Unknown counts as no."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def problems(folder, installed):
    """One line for each thing that will not do, with its mend."""
    if sys.version_info < PYTHON:
        have, need = "{}.{}".format(*sys.version_info), "{}.{}".format(*PYTHON)
        yield f"Python {have} is too old; install Python {need} or newer and run: make PYTHON=python{need} ..."
    elif sys.version_info[:2] > NEWEST:
        have, newest = "{}.{}".format(*sys.version_info), "{}.{}".format(*NEWEST)
        yield f"Python {have} is newer than what is pinned works with; run: make PYTHON=python{newest} ..."
    elif any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        yield "this Python cannot make environments; install its venv package (on Debian: apt install python3-venv)"
    need, free = (DISK_INSTALLED_GB if installed else DISK_GB), shutil.disk_usage(folder).free / 1e9
    if free < need:
        yield f"{folder}: {free:.1f} GB free, {need} GB needed; free some, or clone to a larger disk"
    memory = memory_bytes()
    if memory is not None and memory < MEMORY_GB * 1e9:
        yield f"{memory / 1e9:.1f} GB of memory, {MEMORY_GB} GB needed; close other programs or use a larger machine"


def estimate(recipe, installed):
    """How long it will take, in words."""
    count, bf16 = cores(), has_bf16()
    machine = f"{count} cores {'with' if bf16 else 'without'} bf16 instructions"
    setup = "" if installed else f"set-up about {INSTALL_MINUTES} minutes (it downloads 1 GB or more), then "
    if recipe not in MINUTES:
        return f"{machine}: {setup}the run (no estimate for recipe {recipe})"
    minutes = MINUTES[recipe] * (2 / max(1, min(count, 8))) ** 0.7 * (1 if bf16 else 1.3)
    return f"{machine}: {setup}recipe {recipe} about {max(1, round(minutes))} minutes; what is cached takes seconds"


def main():
    """Exit 2 with one line for each problem; else print the estimate, if one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", help="print how long this recipe will take")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="where things will be written")
    parser.add_argument("--installed", action="store_true", help="the environment is there already")
    arguments = parser.parse_args()
    found = list(problems(arguments.folder, arguments.installed))
    for line in found:
        print(f"check: {line}", file=sys.stderr)
    if found:
        return 2
    if arguments.recipe:
        print(estimate(arguments.recipe, arguments.installed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
