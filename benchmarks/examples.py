"""Millions of training examples drawn from disk: memory, time until the first batch, time a batch.

    python benchmarks/examples.py --out benchmarks/results/examples.json

A dataset is generated: two million examples of three tasks, each with seven negatives of about 150 words. Words are
those of Python's documentation, texts are picked from a pool, queries differ. Then, each in a process of its own:
`unpack` (the first opening of a dataset, once on a machine) and `draw` (what every rank does: open, make a sampler,
take batches of 128 at the beginning, in the middle of the first epoch, and far on). Memory is what the process
allocates above what it held after its imports (anonymous pages, every 10 ms); pages of mapped files, which the
operating system takes back when it needs them, stand beside it. Linux only; two million take 20 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import describe, heading

from nvembed.core.artifacts import MANIFEST, write_manifest
from nvembed.data import BatchSampler, open_examples, read_examples
from nvembed.data.pydocs import read_python_docs
from nvembed.recipe import Batches

ROWS_A_PART = 50_000
NEGATIVES = 7
WORDS = 150
BATCH = 128
TASKS = ("msmarco", "hotpotqa", "banking77")
SHARES = (0.6, 0.35, 0.05)
KEYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weights": {"weights": {"banking77": 3, "msmarco": 0.5}},
    "one-dataset": {"mode": "one-dataset"},
    "distinct texts": {"distinct_texts": True},
    "by length": {"group_by_length": True},
}


def main() -> None:
    """Generate, then run each phase in a child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, help="keep the dataset there, and use it again (a temporary folder)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--child", nargs=2, metavar=("PHASE", "DATASET"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps({"unpack": unpack, "draw": draw, "list": as_list}[asked.child[0]](Path(asked.child[1]))))
        return
    print(heading(), flush=True)
    with tempfile.TemporaryDirectory(prefix="nvembed-examples-") as temporary:
        facts = {"machine": describe(), **measure(asked.folder or Path(temporary), asked.examples)}
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(facts, indent=2) + "\n")


def measure(folder: Path, count: int) -> dict[str, Any]:
    """All phases, printed as they come."""
    began = time.perf_counter()
    generate(folder / "dataset", count)
    parquet = size_of(folder / "dataset")
    print(
        f"\n{count} examples generated in {time.perf_counter() - began:.0f} s, {parquet:.1f} GB of Parquet", flush=True
    )
    found: dict[str, Any] = {"examples": count, "parquet_gb": parquet}
    shutil.rmtree(folder / "state", ignore_errors=True)
    found["unpack"] = child("unpack", folder)
    arrow = found["unpack"]["arrow_gb"] = size_of(folder / "state")
    seconds, cpu = (found["unpack"][name] for name in ("seconds", "seconds_cpu"))
    print(f"unpack: {seconds:.0f} s ({cpu:.0f} of a core), {arrow:.1f} GB; {memory_line(found['unpack'])}", flush=True)
    found["draw"] = child("draw", folder)
    drawn = found["draw"]
    print(f"open: {drawn['open_seconds']:.2f} s; {memory_line(drawn)}")
    for name, figures in drawn["keys"].items():
        print(
            f"{name:15} sampler {figures['sampler_seconds']:6.2f} s, "
            f"first batch {figures['first_seconds']:6.2f} s ({figures['first_seconds_cpu']:.2f} of a core), "
            f"then {figures['batch_ms']:5.2f} ms a batch ({figures['batch_ms_cpu']:.2f} of a core)"
        )
    generate(folder / "small", ROWS_A_PART)
    found["list"] = child("list", folder, "small")
    print(f"as a list of objects: {found['list']['kb_an_example']:.1f} kB an example, which all of them would take")
    return found


def generate(folder: Path, count: int) -> None:
    """A mined folder of `count` examples, whole parts at a time, unless it is there."""
    if (folder / MANIFEST).is_file():
        return
    draw = np.random.default_rng(0)
    words = np.array(" ".join(pair.positive for pair in read_python_docs().pairs).split())
    starts = draw.integers(0, len(words) - 2 * WORDS, 20_000)
    sizes = np.clip(draw.lognormal(np.log(WORDS * 0.85), 0.5, len(starts)), 5, 2 * WORDS).astype(int)
    pool = pa.array([" ".join(words[start : start + size]) for start, size in zip(starts, sizes, strict=True)])
    (folder / "train").mkdir(parents=True, exist_ok=True)
    for part, start in enumerate(range(0, count, ROWS_A_PART)):
        rows = min(ROWS_A_PART, count - start)
        numbers = np.arange(start, start + rows)
        tasks = pa.array(draw.choice(TASKS, rows, p=SHARES))
        negatives = pool.take(pa.array(draw.integers(0, len(pool), rows * NEGATIVES)))
        columns = {
            "task": tasks,
            "task_type": pa.array(["retrieval"] * rows),
            "query": pa.array([f"query {n} {' '.join(words[n % 50_000 : n % 50_000 + 8])}" for n in numbers]),
            "positive": pool.take(pa.array(draw.integers(0, len(pool), rows))),
            "negatives": pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * NEGATIVES, pa.int32()), negatives),
            "query_instruction": pa.array(["Given a question, retrieve the passages that answer it"] * rows),
            "document_instruction": pa.array([""] * rows),
            "source": tasks,
            "license": pa.array(["none"] * rows),
            "id": pa.array([f"{n:032x}" for n in numbers]),
        }
        pq.write_table(pa.table(columns), folder / "train" / f"part-{part:05d}.parquet", compression="zstd")
    write_manifest(folder, kind="mined", section={}, counts={"examples": count})


def child(phase: str, folder: Path, dataset: str = "dataset") -> dict[str, Any]:
    """One phase in a process of its own."""
    environment = {**os.environ, "NVEMBED_STATE": str(folder / "state")}
    command = [sys.executable, __file__, "--child", phase, str(folder / dataset)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def unpack(dataset: Path) -> dict[str, Any]:
    """The first opening."""
    with Watch() as watch:
        began, busy = time.perf_counter(), time.process_time()
        open_examples(dataset)
        seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    return {"seconds": seconds, "seconds_cpu": cpu, **watch.peak}


def draw(dataset: Path) -> dict[str, Any]:
    """What a rank does, with each set of keys in turn; memory is that of all of them, one after the other."""
    with Watch() as watch:
        began = time.perf_counter()
        table = open_examples(dataset)
        opened = time.perf_counter() - began
        keys = {name: draw_with(table, chosen) for name, chosen in KEYS.items()}
    return {"open_seconds": opened, "keys": keys, **watch.peak}


def draw_with(table: Any, chosen: dict[str, Any]) -> dict[str, float]:
    """Times of one sampler: made, first batch, the next 100 and 100 of a later epoch's middle."""
    began = time.perf_counter()
    sampler = BatchSampler(table, BATCH, 17, ["retrieval"], Batches(**chosen))
    made = time.perf_counter() - began
    began, busy = time.perf_counter(), time.process_time()
    sampler.batch(0)
    first, first_cpu = time.perf_counter() - began, time.process_time() - busy
    times = []
    for start in (1, sampler.steps_per_epoch // 2, 3 * sampler.steps_per_epoch + 5):
        sampler.places(start)  # arrange the epoch
        for step in range(start, start + min(100, sampler.steps_per_epoch // 3)):
            began, busy = time.perf_counter(), time.process_time()
            sampler.batch(step)
            times.append((1000 * (time.perf_counter() - began), 1000 * (time.process_time() - busy)))
    return {
        "sampler_seconds": made,
        "first_seconds": first,
        "first_seconds_cpu": first_cpu,
        "batch_ms": float(np.median([wall for wall, _ in times])),
        "batch_ms_cpu": float(np.median([busy for _, busy in times])),
    }


def as_list(dataset: Path) -> dict[str, Any]:
    """A part of the dataset as a list of examples."""
    before = memory("RssAnon")
    examples = read_examples(dataset)
    return {"kb_an_example": (memory("RssAnon") - before) * 1e6 / len(examples)}


class Watch:
    """The peak of allocated memory and of mapped pages, in GB, above what the process held at the start."""

    def __enter__(self) -> Watch:
        self.before, self.most, self.mapped, self.over = memory("RssAnon"), 0.0, 0.0, threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()
        return self

    def _follow(self) -> None:
        while not self.over.wait(0.01):
            self.most = max(self.most, memory("RssAnon") - self.before)
            self.mapped = max(self.mapped, memory("RssFile"))

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    @property
    def peak(self) -> dict[str, float]:
        """Both peaks."""
        return {"peak_gb": self.most, "mapped_gb": self.mapped}


def memory_line(found: dict[str, Any]) -> str:
    """Both peaks in words."""
    return f"{found['peak_gb']:.2f} GB of memory at the peak, {found['mapped_gb']:.2f} GB of mapped pages beside it"


def memory(what: str) -> float:
    """Memory of this process in GB by a name of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError(f"this system does not tell {what}")


def size_of(folder: Path) -> float:
    """GB of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


if __name__ == "__main__":
    main()
