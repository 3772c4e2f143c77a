"""The machine that a plan is for: the one at hand, or one that is described."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nvembed.core.errors import UserError
from nvembed.modeling.batching import cpu_has_bf16, resolve_precision

if TYPE_CHECKING:
    from nvembed.recipe import Model, Resources

GIB = 2**30
# Dense bf16 products a second, in 1e12, of each maker's data sheet; the share of it that training reaches is assumed.
CHIPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "B200": 2250.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
EFFICIENCY = 0.45  # of a GPU's data sheet
CPU_EFFICIENCY = 0.4  # of a measured product of two large matrices


@dataclass(frozen=True)
class Machine:
    """What one rank has, and how many there are.

    Attributes:
        device: `cpu` or `cuda`.
        ranks: of all nodes; `local_ranks` of this node.
        memory: bytes of the rank's device: a GPU's own, or the rank's share of main memory.
        host_memory: main memory of the node, bytes; None where it is not known.
        bf16: the device is faster in bf16.
        flops: products and sums a second that a rank can count on, by precision; None: not known.
        about: a few words: chip, and where the rate comes from.
    """

    device: str
    ranks: int
    local_ranks: int
    memory: int
    host_memory: int | None
    bf16: bool
    flops: float | None
    about: str

    def precision(self, model: Model) -> str:
        """What the section's model computes in there."""
        if model.precision != "auto":
            return model.precision
        return "bfloat16" if self.bf16 else "float32"


def this_machine(resources: Resources, device: str, *, rate: bool = False, precision: str = "auto") -> Machine:
    """The machine at hand, with the ranks that a recipe asks for; `rate` measures how fast it multiplies."""
    world, local = resources.processes * resources.nodes, resources.processes
    host = host_memory()
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        chip = _known_chip(card.name)
        return Machine(
            device,
            world,
            local,
            int(card.total_memory),
            host,
            resolve_precision("auto", torch.device("cuda")) == "bfloat16",
            CHIPS[chip] * 1e12 * EFFICIENCY if chip else None,
            f"{card.name}, {EFFICIENCY:.0%} of its data sheet assumed" if chip else f"{card.name}, rate unknown",
        )
    bf16 = cpu_has_bf16()
    speed = None
    if rate:
        low = precision == "bfloat16" or (precision == "auto" and bf16)
        speed = _product_rate(torch.bfloat16 if low else torch.float32) * CPU_EFFICIENCY
    about = f"CPU, {CPU_EFFICIENCY:.0%} of a measured matrix product assumed" if rate else "CPU"
    return Machine(device, world, local, (host or 8 * GIB) // local, host, bf16, speed and speed / local, about)


def described_machine(gpus: int, memory: str, chip: str | None = None, nodes: int = 1) -> Machine:
    """A machine by `--gpus`, `--gpu-memory` and `--chip`. Raises UserError for what cannot be read."""
    if chip is not None and (known := _known_chip(chip)) is None:
        raise UserError(f"--chip {chip!r} is unknown; known: {', '.join(sorted(CHIPS))}")
    speed = CHIPS[known] * 1e12 * EFFICIENCY if chip is not None and known else None
    about = f"{chip}, {EFFICIENCY:.0%} of its data sheet assumed" if chip else "no --chip given, so no times"
    return Machine("cuda", gpus * nodes, gpus, read_bytes(memory, "--gpu-memory"), None, True, speed, about)


def read_bytes(text: str, where: str) -> int:
    """Bytes of `80GB`, `24Gi`, `500MB`; a number alone is GB. Raises UserError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise UserError(f"{where} {text!r}: write a size as 80GB or 24Gi")
    power = {"K": 1, "M": 2, "G": 3, "T": 4}[(found[2] or "G").upper()]
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def host_memory() -> int | None:
    """Main memory that this process may use, in bytes: of the machine, or of its container if that is less."""
    found = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        found.append(int(text))
    return min(found, default=None)


def _known_chip(name: str) -> str | None:
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    for chip in sorted(CHIPS, key=len, reverse=True):
        if all(word in words for word in chip.lower().split()):
            return chip
    return None


def _product_rate(dtype: torch.dtype, size: int = 1024) -> float:
    """Products and sums a second of a square matrix product, the best of three."""
    import time

    one = torch.ones(size, size, dtype=dtype)
    one @ one
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        one @ one
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
