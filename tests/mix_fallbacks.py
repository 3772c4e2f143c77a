"""Stand-ins of collections that recipes fall back to, in their real schemas."""

from __future__ import annotations

from pathlib import Path

from mix_stand_in import Hub
from mix_texts import STS, facts


def write_fallbacks(folder: Path, rows: int = 24) -> Path:
    """Write collections that stand in where a dataset cannot be had; return the folder."""
    hub = Hub(folder)
    found = facts(rows)
    score = [1.0, 0.97, 0.5, 0.4]
    hub.parquet(
        "lightonai/embeddings-fine-tuning",
        "queries",
        "msmarco",
        [{"query_id": i, "query": fact.question, "split": "train"} for i, fact in enumerate(found)],
    )
    hub.parquet(
        "lightonai/embeddings-fine-tuning",
        "documents",
        "msmarco",
        [{"document_id": i, "document": fact.passage, "split": "train"} for i, fact in enumerate(found)],
    )
    hub.parquet(
        "lightonai/embeddings-fine-tuning",
        "scores",
        "msmarco",
        [
            {
                "query_id": i,
                "document_ids": [(i + step) % rows for step in (0, 1, 2, 3)],
                "scores": score,
                "split": "train",
            }
            for i in range(rows)
        ],
    )
    hub.parquet(
        "nvidia/embed-nemotron-dataset-v1",
        "FEVER",
        "train",
        [
            {
                "question_id": f"q{i}",
                "question": fact.claim,
                "corpus_id": "FEVER_corpus",
                "pos_doc": [{"id": f"d{i}"}],
                "neg_doc": [{"id": f"d{(i + 1) % rows}"}],
            }
            for i, fact in enumerate(found)
        ],
    )
    hub.parquet(
        "nvidia/embed-nemotron-dataset-v1",
        "FEVER_corpus",
        "train",
        [{"id": f"d{i}", "text": fact.passage} for i, fact in enumerate(found)],
    )
    hub.jsonl("embedding-data/PAQ_pairs", "default", "train", [{"set": [f.question, f.passage]} for f in found])
    f2llm = [
        {"query": first, "passage": second, **{f"negative_{n}": found[n % rows].passage for n in range(1, 25)}}
        for first, second, _ in STS
    ]
    hub.write_parquet(hub.folder / "codefuse-ai/F2LLM" / "sts12.parquet", f2llm)
    return folder
