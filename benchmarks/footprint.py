"""The plan's memory against memory: predicted and measured peak of one chunk, forward and backward, on this CPU.

    python benchmarks/footprint.py [--cases tiny minilm smollm2] [--out RESULT.json]

Each measurement is a process of its own: the model as training builds it, a small pass to warm up, then a chunk of the
tokens asked for; its highest resident memory above what it held before is set against `training.footprint`. Measured
twice: with malloc handing back every block of a megabyte or more at once, which shows what was allocated, and as it
comes, which keeps holes (and is twice as fast, so training leaves it so; the plan allows for it by `plan.HEAP`
and the gigabyte that it sets aside).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from machine import describe, heading

from nvembed.training.plan import HEAP

BLOCK = [f"model.latent.{key}" for key in ("num_latents=64", "num_heads=4", "head_dim=64")]
# recipe and its overrides: a Mistral wide enough to be seen beside the interpreter, and two real encoders
CASES: dict[str, tuple[str, list[str]]] = {
    "mistral": ("tiny", BLOCK),
    "minilm": ("laptop", []),
    "smollm2": ("laptop-llm", []),
}
SHAPE = {"hidden_size": 256, "intermediate_size": 896, "num_hidden_layers": 6, "num_attention_heads": 8}


def prepare(case: str):
    """The case's recipe; the wider Mistral is put in the place of the tiny one."""
    from nvembed.modeling import random_backbone
    from nvembed.recipe import load_recipe

    recipe, overrides = CASES[case]
    random_backbone.SHAPES["mistral-tiny"] |= SHAPE if case == "mistral" else {}
    return load_recipe(recipe, overrides)


def predict(case: str, length: int, texts: int, precision: str, checkpointing: bool) -> float:
    """Bytes of the chunk by the plan's model."""
    from nvembed.modeling.sizes import read_sizes
    from nvembed.training.engine import PLAIN_ATTENTION_TOKENS
    from nvembed.training.footprint import measure

    model = prepare(case).model
    footprint = measure(
        model,
        read_sizes(model).layers,
        length=length,
        precision=precision,
        low=False,
        plain_attention=length <= PLAIN_ATTENTION_TOKENS and not checkpointing,
        checkpointing=checkpointing,
    )
    return footprint.chunk_bytes(texts * length)


def measure_peak(case: str, length: int, texts: int, precision: str, checkpointing: bool) -> float:
    """Bytes by which resident memory rose, at the most, while the chunk went forward and backward."""
    import torch

    from nvembed.training.build import build_encoder
    from nvembed.training.chunks import Chunk
    from nvembed.training.job import Job

    recipe = prepare(case)
    stage = recipe.stage1.model_copy(update={"gradient_checkpointing": checkpointing})
    model = recipe.model.model_copy(update={"precision": precision})
    sections = {"stage": stage.model_dump(mode="json"), "model": model.model_dump(mode="json")}
    told = {"dataset": "", "init": None, "state": "", "resume": None, "made_by": {}, "device": "cpu", "threads": 2}
    encoder = build_encoder(Job("stage1", **sections, **told), torch.device("cpu"))

    def chunk(rows: int) -> Chunk:
        ids = torch.randint(5, 200, (rows, length))
        return Chunk(torch.arange(rows), ids, torch.ones_like(ids), torch.ones_like(ids, dtype=torch.bool), seed=1)

    encoder([chunk(1)]).sum().backward()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident memory so far
    encoder([chunk(texts)]).sum().backward()
    return resident("VmHWM") - before


def in_a_process(asked: list, *, hold: bool) -> float:
    """`measure_peak` in a fresh process; `hold`: malloc keeps what is freed, as it does by default."""
    environment = dict(os.environ) if hold else {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    command = [sys.executable, __file__, "--one", json.dumps(asked)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout.split()[-1])


def resident(which: str) -> int:
    """A line of /proc/self/status in bytes."""
    found = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096])
    parser.add_argument("--lengths", nargs="+", type=int, default=[64])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure_peak(*json.loads(options.one)))
        return
    print(heading())
    print(f"{'case':9}{'tokens':>7}{'a text':>7} {'precision':9} checkpointing", end="")
    print("  predicted  allocated  ratio   resident  ratio with HEAP")
    machine, lines = describe(), []
    for case in options.cases:
        for length, tokens, precision, checkpointing in (
            (length, tokens, precision, checkpointing)
            for length in options.lengths
            for tokens in options.tokens
            for precision in ("float32", "bfloat16")
            for checkpointing in (False, True)
        ):
            asked = [case, length, tokens // length, precision, checkpointing]
            expected, allocated, kept = predict(*asked), in_a_process(asked, hold=False), in_a_process(asked, hold=True)
            lines.append({"asked": asked, "predicted": expected, "allocated": allocated, "resident": kept})
            print(f"{case:9}{tokens:7}{length:7} {precision:9} {'on' if checkpointing else 'off':13}", end="")
            print(f"{expected / 2**20:8.0f} MB{allocated / 2**20:8.0f} MB{expected / allocated:7.2f}", end="")
            print(f"{kept / 2**20:8.0f} MB{HEAP * expected / kept:7.2f}", flush=True)
            if options.out:  # after each line: a case takes minutes
                options.out.write_text(json.dumps({"machine": machine, "lines": lines}, indent=2) + "\n")


if __name__ == "__main__":
    main()
