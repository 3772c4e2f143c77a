"""Millions of generated pairs through the preparation of a mix: memory, time, equal bytes, a kill in between.

    python benchmarks/prepare.py --pairs 10000000 --out benchmarks/results/prepare.json

Pairs of Python's documentation's words are generated into Parquet files of three sources: one with a cap, one in BEIR's
form, which is joined, one with some pairs twice and some evaluation texts planted. Then, each in a process of its own:
`one shard`; `seven shards`, in another state folder; `killed`, which is ended with SIGKILL when about half of the
blocks are there, and started again. All must give the same digest. Memory is the largest resident set that the
operating system saw; what the process held after its imports stands beside it. Linux only. Disk: about four times the
generated Parquet.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import describe, heading

from nvembed.core.artifacts import read_manifest
from nvembed.data import prepare
from nvembed.data.pydocs import read_python_docs
from nvembed.recipe import Data

QUERY_WORDS, PASSAGE_WORDS = 9, 60
ROWS_A_FILE = 500_000
REFERENCES = 2_000
POOL = 20_000
SHARES = {"plain": 0.7, "capped": 0.2, "joined": 0.1}


def main() -> None:
    """Generate, then run each way in a child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where everything goes (a temporary folder)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--ways", nargs="+", default=["one shard", "seven shards", "killed"])
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "NAME", "SHARDS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(child(Path(asked.child[0]), asked.child[1], int(asked.child[2]))))
        return
    print(heading())
    with tempfile.TemporaryDirectory(prefix="nvembed-prepare-", dir=asked.folder) as place:
        folder = Path(place)
        started = time.monotonic()
        generate(folder, asked.pairs)
        size = sum(file.stat().st_size for file in folder.rglob("*.parquet")) / 1e9
        print(f"{asked.pairs:,} pairs generated in {time.monotonic() - started:.0f} s, {size:.2f} GB of Parquet\n")
        figures = {way: run(folder, way) for way in asked.ways}
    same = len({one["content"] for one in figures.values()}) == 1
    print("digests are equal" if same else "DIGESTS DIFFER")
    if asked.out:
        asked.out.write_text(json.dumps({**describe(), "pairs": asked.pairs, "same": same, "ways": figures}, indent=1))
    sys.exit(0 if same else 1)


def generate(folder: Path, pairs: int) -> None:
    """Three sources and the evaluation texts."""
    random = np.random.default_rng(17)
    docs = read_python_docs().pairs
    words = np.array(sorted({word for pair in docs for word in pair.positive.split() if word.isascii()}))
    judged = _bodies(random, words, REFERENCES, QUERY_WORDS + 4)
    (folder / "judged.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in judged))
    for name, share in SHARES.items():
        left, number = int(pairs * share), 0
        while left:
            rows = min(left, ROWS_A_FILE)
            queries, passages = (_texts(random, words, rows, n) for n in (QUERY_WORDS, PASSAGE_WORDS))
            if name == "plain":
                for place in range(0, rows, 1000):
                    queries[place] = judged[(place // 1000 + number) % len(judged)]
                    queries[place + 1 : place + 3] = queries[place + 1 : place + 2] * 2
                    passages[place + 1 : place + 3] = passages[place + 1 : place + 2] * 2
            _write(folder, name, number, queries, passages, ROWS_A_FILE * number)
            left, number = left - rows, number + 1


def _texts(random: np.random.Generator, words: np.ndarray, rows: int, length: int) -> list[str]:
    """Different texts: bodies of a pool, each with numbers of its own at both ends."""
    bodies = _bodies(random, words, min(rows, POOL), length)
    numbers = random.integers(0, 1 << 40, rows).tolist()
    places = random.integers(0, len(bodies), rows).tolist()
    return [f"{number:x} {bodies[place]} {number}" for number, place in zip(numbers, places, strict=True)]


def _bodies(random: np.random.Generator, words: np.ndarray, rows: int, length: int) -> list[str]:
    # words are as unequally frequent as in real text: the n-th with a share of about 1/n
    ranks = (len(words) ** random.random(rows * length)).astype(np.int64) - 1
    drawn = words[ranks].reshape(rows, length).tolist()
    return [" ".join(row) for row in drawn]


def _write(folder: Path, name: str, number: int, queries: list[str], passages: list[str], start: int) -> None:
    home = folder / "hub" / "made" / name
    if name != "joined":
        _parquet(home / "default" / f"train-{number:05d}.parquet", {"query": queries, "positive": passages})
        return
    ids = [f"{start + place}" for place in range(len(queries))]
    _parquet(home / "corpus" / f"corpus-{number:05d}.parquet", {"_id": ids, "title": [""] * len(ids), "text": passages})
    _parquet(home / "queries" / f"queries-{number:05d}.parquet", {"_id": ids, "text": queries})
    _parquet(
        home / "default" / f"train-{number:05d}.parquet",
        {"query-id": ids, "corpus-id": ids, "score": [1.0] * len(ids)},
    )


def _parquet(file: Path, columns: dict[str, list[Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file, compression="zstd", row_group_size=50_000)


def section(folder: Path) -> Data:
    """The mix."""
    rows = {
        name: sum(pq.read_metadata(f).num_rows for f in (folder / "hub/made" / name / "default").iterdir())
        for name in SHARES
    }
    return Data.model_validate(
        {
            "source": "mix",
            "hub_mirror": str(folder / "hub"),
            "decontamination": {"files": [str(folder / "judged.jsonl")]},
            "sources": {
                "plain": {"repo": "made/plain", "rows": rows["plain"]},
                "capped": {"repo": "made/capped", "rows": rows["capped"], "cap": max(rows["capped"] * 3 // 4, 1)},
                "joined": {"repo": "made/joined", "rows": rows["joined"], "shape": "beir"},
            },
        }
    )


def run(folder: Path, way: str) -> dict[str, Any]:
    """One way, in a child; its figures."""
    shards = 7 if way == "seven shards" else 1
    name = way.replace(" ", "-")
    command = [sys.executable, __file__, "--child", str(folder), name, str(shards)]
    environment = {**os.environ, "NVEMBED_STATE": str(folder / f"state-{name}")}
    started = time.monotonic()
    if way == "killed":
        _kill_halfway(command, environment, folder / f"state-{name}", section(folder))
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    figures["seconds in all"] = round(time.monotonic() - started, 1)
    print(f"{way}: " + ", ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    shutil.rmtree(folder / f"state-{name}")
    shutil.rmtree(folder / f"out-{name}")
    return figures


def _kill_halfway(command: list[str], environment: dict[str, str], state: Path, data: Data) -> None:
    half = sum(source.rows or 0 for source in data.sources.values()) // 20_000 // 2
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(state.glob("mix/*/block-*.json"))) < max(half, 1):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"killed with {len(list(state.glob('mix/*/block-*.json')))} blocks there", flush=True)


def child(folder: Path, name: str, shards: int) -> dict[str, Any]:
    """Prepare the mix in this process."""
    data = section(folder)
    before = peak_mib()
    started, used = time.monotonic(), time.process_time()
    prepare(data, folder / f"out-{name}", folder / f"eval-{name}", shards=shards)
    manifest = read_manifest(folder / f"out-{name}")
    return {
        "examples": manifest.counts["train_examples"],
        "dropped": sum(sum(one["dropped"].values()) for one in manifest.extra["sources"]),
        "seconds": round(time.monotonic() - started, 1),
        "cpu seconds": round(time.process_time() - used, 1),
        "peak MiB": peak_mib(),
        "MiB after imports": before,
        "content": manifest.content,
    }


def peak_mib() -> int:
    """The largest resident set of this process so far. Not `ru_maxrss`, which a child takes over from its parent."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    main()
