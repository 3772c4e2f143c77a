"""A stand-in of the whole NV-Embed mix: every dataset of the two recipes in its real schema, small, made up.

`python tests/mix_stand_in.py FOLDER [ROWS]` writes a folder for `data.hub_mirror`. The schemas are written down here by
hand from what is known of the datasets, not from the recipes, so that a recipe that asks for a column that is not there
fails. The same arguments give the same bytes.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from mix_texts import LISTS, STS, facts, labelled, varied

Rows = list[dict[str, Any]]


def write_stand_in(folder: Path, rows: int = 24) -> Path:
    """Write every dataset with about so many rows; return the folder."""
    hub = Hub(folder)
    _retrieval(hub, rows)
    _joined(hub, rows)
    _classification(hub, rows)
    _clustering(hub, rows)
    _sts(hub, rows)
    return folder


class Hub:
    """Writes `<repo>/<config>/<split>` files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def parquet(self, repo: str, config: str, split: str, rows: Rows, schema: pa.Schema | None = None) -> None:
        self.write_parquet(self._folder(repo, config) / f"{split}-00000-of-00001.parquet", rows, schema)

    def jsonl(self, repo: str, config: str, split: str, rows: Rows, *, packed: bool = False) -> None:
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        name = f"{split}.jsonl.gz" if packed else f"{split}.jsonl"
        (self._folder(repo, config) / name).write_bytes(gzip.compress(data, mtime=0) if packed else data)

    def card(self, repo: str, license: str) -> None:
        (self._folder(repo, "") / "README.md").write_text(f"---\nlicense: {license}\n---\nA stand-in, made up.\n")

    def _folder(self, repo: str, config: str) -> Path:
        folder = self.folder / repo / config
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @staticmethod
    def write_parquet(path: Path, rows: Rows, schema: pa.Schema | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def _retrieval(hub: Hub, rows: int) -> None:
    """Datasets whose rows hold their texts."""
    found = facts(rows)
    other = [found[(i + 5) % rows] for i in range(rows)]
    st = "sentence-transformers"
    hub.parquet(f"{st}/natural-questions", "pair", "train", [{"query": f.question, "answer": f.passage} for f in found])
    hub.parquet(f"{st}/paq", "pair", "train", [{"query": f.question, "answer": f.passage} for f in found])
    bodies = [
        {
            "body1": f"I was told this: {f.claim} But {f.question}?",
            "body2": f"Please explain: {f.question}? My book only says: {f.claim}",
        }
        for f in found
    ]
    hub.parquet(f"{st}/stackexchange-duplicates", "body-body-pair", "train", bodies)
    nli = [{"anchor": f.passage, "positive": f.claim, "negative": o.claim} for f, o in zip(found, other, strict=True)]
    hub.parquet(f"{st}/all-nli", "triplet", "train", nli)
    hub.parquet(
        f"{st}/squad",
        "pair",
        "train",
        [{"question": f.question.capitalize() + "?", "answer": f.passage} for f in found],
    )
    for repo in ("miracl", "mr-tydi"):
        triplets = [
            {"anchor": f.question, "positive": f"{f.title}\n{f.passage}", "negative": f"{o.title}\n{o.passage}"}
            for f, o in zip(found, other, strict=True)
        ]
        hub.parquet(f"{st}/{repo}", "en-triplet", "train", triplets)
    arguana = [(varied(c, n), varied(p, n), varied(w, n)) for n in range(-(-rows // len(LISTS))) for c, p, w in LISTS]
    hub.parquet(
        "cfli/bge-full-data",
        "default",
        "arguana",
        [_bge(c, [p], [w], "arguana", "normal") for c, p, w in arguana[:rows]],
        _BGE,
    )


_BGE = pa.schema([
    ("query", pa.string()), ("pos", pa.list_(pa.string())), ("neg", pa.list_(pa.string())), ("category", pa.string()),
    ("type", pa.string()), ("prompt", pa.string()), ("pos_scores", pa.list_(pa.float32())),
    ("neg_scores", pa.list_(pa.float32())),
])  # fmt: skip


def _bge(query: str, pos: list[str], neg: list[str], category: str, kind: str) -> dict[str, Any]:
    return {
        "query": query,
        "pos": pos,
        "neg": neg,
        "category": category,
        "type": kind,
        "prompt": "Made up.",
        "pos_scores": None,
        "neg_scores": None,
    }


def _joined(hub: Hub, rows: int) -> None:
    """Datasets whose rows name their texts by id."""
    found = facts(rows)
    questions, claims = [f.question for f in found], [f.claim for f in found]
    for name, queries in (
        ("msmarco", questions),
        ("fiqa", questions),
        ("nfcorpus", questions),
        ("fever", claims),
        ("scifact", claims),
        ("hotpotqa", questions),
    ):
        repo = f"mteb/{name}"
        titles = name not in ("msmarco", "fiqa")
        corpus = [{"_id": f"d{i}", "title": f.title if titles else "", "text": f.passage} for i, f in enumerate(found)]
        extra = {"_id": "d-far", "title": "Far", "text": "A passage that no query asks for."}
        hub.jsonl(repo, "corpus", "corpus", [*corpus, extra])
        asked = [{"_id": f"q{i}", "text": text} for i, text in enumerate(queries)]
        hub.jsonl(repo, "queries", "queries", [*asked, {"_id": "t0", "text": "a query of the test split"}])
        graded = 2.0 if name == "nfcorpus" else 1.0
        judged = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": graded} for i in range(rows)]
        if name == "hotpotqa":  # two positives for each query
            judged += [{"query-id": f"q{i}", "corpus-id": f"d{(i + 1) % rows}", "score": 1.0} for i in range(rows)]
        judged.append({"query-id": "q0", "corpus-id": "d-far", "score": 0.0})
        hub.jsonl(repo, "default", "train", judged)
        hub.jsonl(repo, "default", "test", [{"query-id": "t0", "corpus-id": "d1", "score": 1.0}])
    hub.parquet(
        "rag-datasets/rag-mini-bioasq",
        "question-answer-passages",
        "test",
        [
            {
                "question": f.question.capitalize() + "?",
                "answer": f.claim,
                "relevant_passage_ids": f"[{i + 1000}, {(i + 1) % rows + 1000}]",
                "id": i,
            }
            for i, f in enumerate(found)
        ],
    )
    hub.parquet(
        "rag-datasets/rag-mini-bioasq",
        "text-corpus",
        "passages",
        [{"passage": f.passage, "id": i + 1000} for i, f in enumerate(found)],
    )
    facts_of = pa.list_(pa.struct([("key", pa.string()), ("value", pa.int32())]))
    schema = pa.schema(
        [
            ("id", pa.int32()),
            ("uid", pa.string()),
            ("claim", pa.string()),
            ("supporting_facts", facts_of),
            ("label", pa.int64()),
            ("num_hops", pa.int32()),
            ("hpqa_id", pa.string()),
        ]
    )
    hover = [
        {
            "id": i,
            "uid": f"u{i}",
            "claim": f.claim,
            "label": i % 2,
            "num_hops": 2,
            "hpqa_id": f"h{i}",
            "supporting_facts": [{"key": f.title, "value": 0}, {"key": found[(i + 2) % rows].title, "value": 1}],
        }
        for i, f in enumerate(found)
    ]
    hub.parquet("vincentkoc/hover-parquet", "default", "train", hover, schema)


_SETS = [  # repository, configuration, texts, packed as
    ("mteb/AmazonReviewsClassification", "en", "stars", "parquet"),
    ("mteb/amazon_counterfactual", "en", "counterfactual", "parquet"),
    ("mteb/banking77", "default", "banking", "jsonl"),
    ("mteb/emotion", "default", "emotion", "jsonl"),
    ("mteb/imdb", "default", "films", "jsonl"),
    ("mteb/MTOPIntentClassification", "en", "mtop_intent", "parquet"),
    ("mteb/MTOPDomainClassification", "en", "mtop_domain", "parquet"),
    ("mteb/toxic_conversations_50k", "default", "toxic", "jsonl"),
    ("mteb/tweet_sentiment_extraction", "default", "tweets", "jsonl"),
    ("mteb/amazon_polarity", "default", "films", "jsonl"),
    ("mteb/amazon_massive_intent", "en", "massive_intent", "jsonl"),
    ("mteb/amazon_massive_scenario", "en", "massive_scenario", "jsonl"),
]  # fmt: skip


def _classification(hub: Hub, rows: int) -> None:
    for repo, config, texts, form in _SETS:
        write = hub.parquet if form == "parquet" else hub.jsonl
        for split, number in (("train", rows), ("test", max(rows // 4, 4))):
            of_split = [
                (f"{text} ({split})" if split == "test" else text, label, name)
                for text, label, name in labelled(texts, number)
            ]
            massive = "massive" in repo  # whose labels are names
            written = [
                {
                    "text": text,
                    "label": name if massive else label,
                    "label_text": str(label) if texts == "stars" else name,
                }
                for text, label, name in of_split
            ]
            write(repo, config, split, written)
    hub.card("mteb/banking77", "mit")


def _clustering(hub: Hub, rows: int) -> None:
    found = facts(rows)
    raw = [{"id": f"{2000 + i}.{i:05d}", "title": f.title, "abstract": f.passage} for i, f in enumerate(found)]
    hub.jsonl(
        "mteb/raw_arxiv",
        "default",
        "train",
        [{**row, "categories": f"{f.category} physics.gen-ph"} for row, f in zip(raw, found, strict=True)],
    )
    for name in ("biorxiv", "medrxiv"):
        hub.jsonl(
            f"mteb/raw_{name}",
            "default",
            "train",
            [{**row, "category": f.topic} for row, f in zip(raw, found, strict=True)],
            packed=True,
        )
    sets = [
        {"sentences": [f.question for f in found[i::3]], "labels": [f.topic for f in found[i::3]]} for i in range(3)
    ]
    hub.jsonl("mteb/stackexchange-clustering", "default", "validation", sets)
    held_out = [{"sentences": [found[0].title, f"{found[0].title} {found[0].passage}"], "labels": ["x", "y"]}]
    for name in ("arxiv", "biorxiv", "medrxiv"):
        for kind in ("s2s", "p2p"):
            hub.jsonl(f"mteb/{name}-clustering-{kind}", "default", "test", held_out)
    for repo in (
        "twentynewsgroups-clustering",
        "reddit-clustering",
        "reddit-clustering-p2p",
        "stackexchange-clustering",
        "stackexchange-clustering-p2p",
    ):
        hub.jsonl(f"mteb/{repo}", "default", "test", held_out)
    for split, whole in (
        ("twenty_news_groups", True),
        ("reddit_clustering", False),
        ("reddit_clusteringP2P", True),
        ("stack_exchange_clusteringP2P", True),
    ):
        lists = []
        for i, fact in enumerate(found):
            text = (lambda f: f"{f.title}\n{f.passage}") if whole else (lambda f: f.question)
            same = [text(f) for f in found if f.topic == fact.topic and f is not fact]
            other = [text(f) for f in found if f.topic != fact.topic]
            lists.append(
                _bge(text(fact), [same[i % len(same)]], other[i % 3 : i % 3 + 3], fact.topic, "symmetric_clustering")
            )
        hub.parquet("cfli/bge-full-data", "default", split, lists, _BGE)


def _sts(hub: Hub, rows: int) -> None:
    pairs = [(varied(a, n), varied(b, n), score) for n in range(-(-rows // len(STS))) for a, b, score in STS][:rows]
    for repo, config, most in (
        ("sts12-sts", "default", 5.0),
        ("sts22-crosslingual-sts", "en", 4.0),
        ("stsbenchmark-sts", "default", 5.0),
    ):
        scored = [{"sentence1": a, "sentence2": b, "score": min(score, most)} for a, b, score in pairs]
        hub.jsonl(f"mteb/{repo}", config, "train", scored)
        hub.jsonl(f"mteb/{repo}", config, "test", [{"sentence1": "A test.", "sentence2": "One more.", "score": 2.0}])


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_stand_in(target, int(sys.argv[2]) if len(sys.argv) > 2 else 24)
    print(target)
