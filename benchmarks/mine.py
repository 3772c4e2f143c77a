"""Mining against sentence-transformers' `mine_hard_negatives`, and the search alone against faiss's flat index.

    PYTHONPATH=<where faiss-cpu is> python benchmarks/mine.py --growth --million --out benchmarks/results/mine.json

Everything starts from the teacher's vectors (made up: `mine_data.py`) and the texts. Mining ends with the chosen
negatives' texts and scores in a table: percentage rule at 0.95, the same k (negatives a query), the same depth
(candidates looked at) for all. `mine_hard_negatives` runs with faiss and without ("plain"), once as it comes (triplets,
16,384 queries at once) and once as we found it fastest; its vectors are in memory beforehand, as it holds them, ours
are mapped from disk. Each contender is a process of its own, all wait while one works, the order rotates, times are
medians after a run to warm up.

*Peak* is all that the process ever held, libraries, texts and read pages of mapped vectors included; *own* is the most
of it that is no file's pages (which the system takes back when it needs them), looked at in the run to warm up.

What each chose is held against an exact search in double precision and a plain reading of the rule: a query differs by
a *tie* if the scores are equal within 1e-6, or one lies so close to the ceiling.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mine_contenders import CONTENDERS
from mine_data import Data, make, read
from mine_exact import Exact, compare, describe_data, exact

OURS = ("nvembed, auto", "nvembed, float32")
GROWING = (*OURS, "sentence-transformers, faiss, lists")
MILLION = (*OURS, "search: faiss IndexFlatIP")
MANY = 1_000_000


def main() -> None:
    """Measure, print tables, and keep the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--k", type=int, default=50, help="negatives wanted of each query (50)")
    parser.add_argument("--depth", type=int, help="candidates looked at for each query (2 k)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="contenders whose names hold this text")
    parser.add_argument("--growth", action="store_true", help="also times over corpus, queries and k")
    parser.add_argument("--million", action="store_true", help="also a million documents")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args()
    asked.depth = asked.depth or 2 * asked.k
    if not asked.k < asked.depth <= asked.documents // 8:
        raise SystemExit("--depth must be more than --k and at most an eighth of --documents")
    from machine import describe, heading

    print(heading(), flush=True)
    print(f"faiss {version('faiss-cpu') or 'is not there: its contenders are left out'}")
    names = [name for name in CONTENDERS if asked.only in name and ("faiss" not in name or version("faiss-cpu"))]
    facts: dict[str, Any] = {"machine": describe(), "faiss": version("faiss-cpu"), "settings": settings(asked)}
    with tempfile.TemporaryDirectory(prefix="nvembed-mine-") as place:
        folder = Path(place)
        make(folder, asked.queries, asked.documents, asked.dim)
        data = read(folder, in_memory=False)
        truth = exact(data, asked.k, asked.depth)
        facts["data"] = describe_data(truth)
        print("\n" + ", ".join(f"{name} {value:.3g}" for name, value in facts["data"].items()))
        for title, search in (("mining", False), ("search", True)):
            group = [name for name in names if name.startswith("search:") == search]
            if group:
                facts[title] = measure(folder, group, asked, data, truth)
                report(f"{title}: {asked.documents:,} × {asked.dim}, {asked.queries:,} queries", facts[title])
        if asked.growth:
            facts["growth"] = growth(folder, [name for name in names if name in GROWING], asked)
    largest = [name for name in names if name in MILLION]
    if asked.million and largest:
        facts["million"] = million(largest, asked)
        report(f"{MANY:,} documents × {asked.dim}, {asked.queries:,} queries, one run", facts["million"])
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def version(package: str) -> str:
    """An installed package's version, or nothing."""
    try:
        return importlib.metadata.version(package) if importlib.util.find_spec("faiss") else ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def settings(asked: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, without paths."""
    return {name: value for name, value in vars(asked).items() if name != "out"}


class Contender:
    """A process that has loaded one contender and waits to be told to run."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self.name, self._folder = name, folder
        command = [sys.executable, str(Path(__file__).with_name("mine_contenders.py")), name, str(folder), str(threads)]
        count = {key: str(threads) for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        environment = {**os.environ, **count, "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.loaded_gb = self._answer()["peak_gb"]

    def run(self, queries: int, documents: int, k: int, depth: int, *, watch: bool = False) -> dict[str, Any]:
        """One run on the first so many queries and documents."""
        asked = {"queries": queries, "documents": documents, "k": k, "depth": depth, "watch": watch}
        self._process.stdin.write(json.dumps(asked) + "\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return self._answer()

    def end(self) -> None:
        """Let the process go."""
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"{self.name}: ended with code {self._process.wait()}; what it said stands above")
        return json.loads(line)


def measure(
    folder: Path, names: list[str], asked: argparse.Namespace, data: Data, truth: Exact, *, repeats: int | None = None
) -> dict[str, Any]:
    """Name → seconds of each run, memory, and how far the choice is from the exact one."""
    repeats = asked.repeats if repeats is None else repeats
    size = (len(data.queries), len(data.documents), asked.k, asked.depth)
    contenders = [Contender(name, folder, asked.threads) for name in names]
    found: dict[str, dict[str, Any]] = {}
    for contender in contenders:
        first = contender.run(*size, watch=True)
        found[contender.name] = {"runs": [], "first": first, "loaded_gb": contender.loaded_gb}
    for turn in range(repeats):
        shift = turn % max(1, len(contenders))
        for contender in contenders[shift:] + contenders[:shift]:
            found[contender.name]["runs"].append(contender.run(*size))
    for contender in contenders:
        contender.end()
        rows = found[contender.name]
        rows["peak_gb"] = max(run["peak_gb"] for run in [rows["first"], *rows["runs"]])
        rows["against_exact"] = compare(contender.name, folder, data, truth)
    return found


def growth(folder: Path, names: list[str], asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of whole mining as one of corpus, queries and depth changes; medians of at most three runs."""
    whole = {"documents": asked.documents, "queries": asked.queries, "depth": asked.depth}
    parts = {name: [whole[name] // share for share in (8, 4, 2, 1)] for name in ("documents", "queries")}
    parts["depth"] = [depth for depth in (10, 25, 50, 100, 200, 400) if depth <= asked.documents // 8]
    contenders = [Contender(name, folder, asked.threads) for name in names]
    for contender in contenders:
        contender.run(asked.queries, asked.documents, asked.k, asked.depth)
    rows = []
    print(f"\nseconds of mining as one of {whole} changes (k is half of the depth)")
    print(f"{'':24}" + "".join(f"{name.replace('sentence-transformers', 'ST'):>20}" for name in names))
    for what, values in parts.items():
        for value in values:
            size = {**whole, what: value}
            run = (size["queries"], size["documents"], size["depth"] // 2, size["depth"])
            turns = [[contender.run(*run)["seconds"] for contender in contenders] for _ in range(min(3, asked.repeats))]
            medians = [statistics.median(values) for values in zip(*turns, strict=True)]
            rows.append({"changed": what, **size, "seconds": dict(zip(names, medians, strict=True))})
            print(f"{what:12}{value:12,}" + "".join(f"{seconds:20.2f}" for seconds in medians), flush=True)
    for contender in contenders:
        contender.end()
    return rows


def million(names: Iterable[str], asked: argparse.Namespace) -> dict[str, Any]:
    """Whole mining among a million documents, one contender alive at a time; exactness on 500 queries."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="nvembed-mine-") as place:
        folder = Path(place)
        make(folder, asked.queries, MANY, asked.dim)
        data = read(folder, in_memory=False)
        truth = exact(data.part(min(500, asked.queries), len(data.documents)), asked.k, asked.depth)
        for name in names:
            found |= measure(folder, [name], asked, data, truth, repeats=0)
    return found


def report(title: str, found: dict[str, Any]) -> None:
    """Print a table; times against the fastest contender that is not ours."""
    seconds = {name: [run["seconds"] for run in rows["runs"] or [rows["first"]]] for name, rows in found.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rivals = [value for name, value in medians.items() if "nvembed" not in name]
    print(f"\n{title}")
    times = f"{'':52}{'seconds':>9}{'from, to':>16}{'× rival':>9}"
    print(times + f"{'peak GB':>9}{'own':>7}{'loaded':>8}{'differ':>8}{'ties':>6}")
    for name, rows in found.items():
        spread = f"{min(seconds[name]):.2f} to {max(seconds[name]):.2f}"
        ratio = f"{min(rivals) / medians[name]:.2f}" if rivals else ""
        own = rows["first"]["anonymous_gb"] or 0
        memory = f"{rows['peak_gb']:9.2f}{own:7.2f}{rows['loaded_gb']:8.2f}"
        differ = rows["against_exact"]
        print(f"{name:52}{medians[name]:9.2f}{spread:>16}{ratio:>9}{memory}{differ['differ']:8}{differ['ties']:6}")
        if rows["first"]["parts"]:
            last = (rows["runs"] or [rows["first"]])[-1]["parts"]
            print("    " + ", ".join(f"{part} {value:.2f}" for part, value in last.items()))
    queries = next(iter(found.values()))["against_exact"]["of"]
    print(f"(differ: queries of {queries:,} with other ids than exact search gives; ties: of those, by equal scores)")


if __name__ == "__main__":
    main()
