"""A million short texts through `encode_stream`, killed once in the middle: peak memory, shards made again, time.

    python benchmarks/stream.py --out benchmarks/results/stream.json

The texts are lines of Python's own standard library, each with its number; the model is the tests' two-layer Mistral
shape of random weights, so that the streaming is what is measured. A child process encodes and is killed outright
(SIGKILL) when half of the shards are there; a second one goes on. Each one's peak of resident memory is set against
what it held with the model loaded and one batch encoded. Linux only; about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, heading

from nvembed import NVEmbedModel
from nvembed.core.artifacts import read_manifest
from nvembed.encoding import encode_stream, read_vectors

MAX_LENGTH = 64
LIMIT_GB = 2.0


def main() -> None:
    """The parent: make a model, run the child twice, and hold its folder against what it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=20_000)
    parser.add_argument("--format", choices=["parquet", "npy"], default="parquet")
    parser.add_argument("--folder", type=Path, help="where model and vectors go (a temporary folder)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "OUT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked)
        return
    print(heading(), flush=True)
    with tempfile.TemporaryDirectory(prefix="nvembed-stream-") as temporary:
        facts = {"machine": describe(), **measure(asked, asked.folder or Path(temporary))}
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(facts, indent=2) + "\n")


def texts(count: int) -> Iterator[str]:
    """`count` different short texts: the library's lines over and over, numbered. Nothing of them is kept."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    lines = (line.strip() for file in cycle(files) for line in file.open(encoding="utf-8", errors="replace"))
    return (f"{number}: {line[:48]}" for number, line in enumerate(islice((line for line in lines if line), count)))


def child(asked: argparse.Namespace) -> None:
    """Load the model, say how much memory that took, encode, and say how much more that took."""
    folder, out = asked.child
    model = NVEmbedModel.from_pretrained(folder)
    model.encode(list(texts(200)), max_length=MAX_LENGTH)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    print(json.dumps({"model_gb": memory("VmRSS")}), flush=True)
    began = time.perf_counter()
    done = encode_stream(
        model, texts(asked.texts), out, shard_size=asked.shard_size, format=asked.format, max_length=MAX_LENGTH
    )
    seconds = time.perf_counter() - began
    print(json.dumps({"made": done.made, "shards": done.shards, "seconds": seconds, "peak_gb": memory("VmHWM")}))


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both runs and the check of what they left."""
    model = NVEmbedModel.from_card("random:mistral-tiny")
    model.save_pretrained(folder / "model")
    out, shards = folder / "vectors", -(-asked.texts // asked.shard_size)
    print(f"\n{asked.texts} texts, {shards} shards of {asked.shard_size}, {asked.format}, {MAX_LENGTH} tokens at most")
    first = start(asked, folder)
    began = time.perf_counter()
    while len(finished(out)) < shards // 2:
        time.sleep(0.05)
        assert first.poll() is None, "the first run ended too early"
    time.sleep(1)
    killed = {"model_gb": told(first)["model_gb"], "peak_gb": memory("VmHWM", first.pid)}
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    killed["seconds"] = time.perf_counter() - began
    before = finished(out)
    killed["made"] = len(before)
    report("run 1, killed", killed)
    second = start(asked, folder)
    resumed = told(second) | told(second)
    assert second.wait() == 0
    report("run 2, gone on", resumed)
    after = finished(out)
    redone = sum(after[name] != inode for name, inode in before.items())
    peak = max(run["peak_gb"] - run["model_gb"] for run in (killed, resumed))
    print(f"shards made again: {redone} of {len(before)}; left behind by the kill and made: {resumed['made']}")
    print(f"peak above the model: {peak:.2f} GB (asked: under {LIMIT_GB:.0f})")
    seconds = sum(run["seconds"] for run in (killed, resumed))
    print(f"{seconds:.0f} s together, {asked.texts / seconds:.0f} texts a second; load at the end {describe()['load']}")
    gap = check(model, out, asked.texts)
    print(f"{asked.texts} rows in order; 1,000 of them against `encode`: greatest difference {gap:.1e}")
    return {
        "texts": asked.texts,
        "shard_size": asked.shard_size,
        "format": asked.format,
        "runs": [killed, resumed],
        "redone": redone,
        "seconds": seconds,
        "peak_above_model_gb": peak,
        "greatest_difference": gap,
    }


def start(asked: argparse.Namespace, folder: Path) -> subprocess.Popen[str]:
    """The child in a process of its own."""
    sizes = ["--texts", str(asked.texts), "--shard-size", str(asked.shard_size), "--format", asked.format]
    places = ["--child", str(folder / "model"), str(folder / "vectors")]
    return subprocess.Popen([sys.executable, __file__, *sizes, *places], stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that the child prints."""
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


def finished(out: Path) -> dict[str, int]:
    """Shards that have their record: name → inode, which is another once a shard is written again."""
    names = [record.stem for record in out.glob("part-*.json")]
    return {
        name: next(path for path in out.glob(f"{name}.*") if path.suffix != ".json").stat().st_ino for name in names
    }


def memory(what: str, process: int | str = "self") -> float:
    """Resident memory of a process in GB: `VmRSS` now, `VmHWM` its peak."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError(f"this system does not tell {what}")


def report(what: str, run: dict[str, Any]) -> None:
    """One line a run."""
    above = run["peak_gb"] - run["model_gb"]
    print(
        f"{what:15} {run['made']:4} shards in {run['seconds']:6.1f} s; memory with the model {run['model_gb']:.2f} GB, "
        f"peak {run['peak_gb']:.2f} GB, {above:.2f} GB above",
        flush=True,
    )


def check(model: NVEmbedModel, out: Path, count: int) -> float:
    """The greatest difference of a sample of rows to what `encode` gives for their texts; the folder is whole."""
    read_manifest(out, kind="vectors", verify=True)
    vectors = read_vectors(out)
    assert len(vectors) == count
    sample = np.sort(np.random.default_rng(0).choice(count, min(1000, count), replace=False))
    wanted = set(sample.tolist())
    chosen = [text for number, text in enumerate(texts(count)) if number in wanted]
    return float(np.abs(vectors[sample] - model.encode(chosen, max_length=MAX_LENGTH)).max())


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    main()
