"""A retrieval or reranking task's queries as items: each with its share of the metric and the first texts it found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nvembed.core.errors import UserError
from nvembed.evaluation.items import Items
from nvembed.evaluation.watching import Rankings

KEPT_HITS = 10
SNIPPET = 400
"""Characters of a text that travel with a ranking, for the report's list of queries won and lost."""
TREC_NAMES = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P", "hit_rate": "success"}
"""trec_eval's names of mteb's metrics, as far as they go: `ndcg_at_10` is `ndcg_cut_10`."""
OF_GROUPS = {"robustness_at_10": "ndcg_cut_10", "paired_accuracy": "recall_1"}
"""Metrics of queries asked in several ways, which count by the worst of them; an id begins with the question's."""


def ranking_items(
    subset: str, told: Rankings, queries: Any, corpus: Any, metric: str, *, skip_first: bool = False
) -> Items:
    """The queries of one subset.

    Args:
        told: mteb's scores, judgements and rankings. queries, corpus: datasets with `id` and `text`.
        metric: the task's main score.
        skip_first: mteb leaves out each ranking's first document (the query itself).

    Raises:
        UserError: a metric that no query's share is known of.
    """
    place = {query: row for row, query in enumerate(queries["id"])}
    found_scores = query_scores(told, metric)
    scores = {q: found_scores[q] for q in sorted(found_scores, key=lambda q: (place.get(q, len(place)), q))}
    hits = {query: _order(told.results[query], skip_first) for query in scores if query in told.results}
    right = {query: {d: grade for d, grade in told.qrels.get(query, {}).items() if grade > 0} for query in hits}
    best = {query: max(graded, key=lambda d: (graded[d], d)) for query, graded in right.items() if graded}
    texts = _texts(corpus, {*best.values(), *(found[0] for found in hits.values() if found)})
    asked = _texts(queries, hits)
    rows = []
    for query, score in scores.items():
        found, graded = hits.get(query, []), right.get(query, {})
        rows.append(
            {
                "subset": subset,
                "item": query,
                "score": score,
                "rank": next((at for at, hit in enumerate(found, 1) if hit in graded), None),
                "top": found[:KEPT_HITS],
                "text": asked.get(query, ""),
                "relevant_text": texts.get(best.get(query, ""), ""),
                "top_text": texts.get(found[0], "") if found else "",
            }
        )
    return Items.of(rows)


def query_scores(told: Rankings, metric: str) -> dict[str, float]:
    """Each query's share of a metric of mteb's; that of a group of queries where the metric counts groups."""
    if metric == "p-MRR":
        return _p_mrr(told)
    if metric.startswith("max_over_subqueries_"):
        return query_scores(_merged(told), metric.removeprefix("max_over_subqueries_"))
    if metric in OF_GROUPS:
        groups: dict[str, list[float]] = defaultdict(list)
        for query in told.qrels:
            groups[query.split("_")[0]].append(told.scores[query][OF_GROUPS[metric]])
        # the worst of them; for a recall at 1 that is 1 only where each is 1
        return {
            group: float(min(one) if metric != "paired_accuracy" else min(one) == 1) for group, one in groups.items()
        }
    if metric == "accuracy":
        metric = "recall_at_1"
    name, _, depth = metric.rpartition("_at_")
    if name == "mrr":
        return {query: _reciprocal_rank(told, query, int(depth)) for query in told.results}
    if name in TREC_NAMES:
        return {query: float(told.scores[query][f"{TREC_NAMES[name]}_{depth}"]) for query in told.scores}
    raise UserError(f"the metric {metric!r} of a retrieval task is not scored query by query; leave the task out")


def _reciprocal_rank(told: Rankings, query: str, depth: int) -> float:
    for place, hit in enumerate(_order(told.results[query])[:depth], 1):
        if told.qrels[query].get(hit, 0) > 0:
            return 1 / place
    return 0.0


def _order(ranking: Mapping[str, float], skip_first: bool = False) -> list[str]:
    """Documents, the best first; equal scores fall as trec_eval lets them: by id, the larger first."""
    return [hit for hit, _ in sorted(ranking.items(), key=lambda hit: (hit[1], hit[0]), reverse=True)][skip_first:]


def _merged(told: Rankings) -> Rankings:
    """Queries that are parts of one (`<id>_<number>`) as one: a document has its best score among them."""
    import pytrec_eval

    results: dict[str, dict[str, float]] = {}
    qrels: dict[str, Mapping[str, int]] = {}
    for query in told.qrels:
        whole = query.rpartition("_")[0]
        merged = results.setdefault(whole, {})
        for document, score in told.results[query].items():
            merged[document] = max(score, merged.get(document, score))
        qrels[whole] = told.qrels[query]
    names = {"map_cut", "ndcg_cut", "recall", "P", "success"}
    depths = ",".join(str(depth) for depth in sorted(_depths(told)))
    judged = pytrec_eval.RelevanceEvaluator(qrels, {f"{name}.{depths}" for name in names})
    return Rankings(judged.evaluate(results), qrels, results)


def _depths(told: Rankings) -> set[int]:
    first = next(iter(told.scores.values()))
    return {int(name.rpartition("_")[2]) for name in first if name.startswith("ndcg_cut_")}


def _p_mrr(told: Rankings) -> dict[str, float]:
    """p-MRR (FollowIR): how far the documents that a changed instruction rules out fall, for each question."""
    scores = {}
    for question, documents in told.changed.items():
        before, after = (told.results.get(f"{question}-{end}") for end in ("og", "changed"))
        if before is None or after is None or not documents:
            continue
        ranks = [{d: place for place, d in enumerate(_order(one), 1)} for one in (before, after)]
        changes = []
        for document in documents:
            old, new = (places.get(document, len(places) + 1) for places in ranks)
            changes.append(new / old - 1 if old >= new else 1 - old / new)
        scores[question] = float(np.mean(changes))
    return scores


def _texts(dataset: Any, wanted: Iterable[str]) -> dict[str, str]:
    """The beginnings of some documents, of a dataset with `id` and `text` (and perhaps `title`)."""
    wanted = set(wanted)
    rows = [row for row, name in enumerate(dataset["id"]) if name in wanted]
    found = {}
    for row in dataset.select(rows) if rows else []:
        text = row["text"] if isinstance(row["text"], str) else " ".join(map(str, row["text"]))
        found[row["id"]] = f"{row.get('title') or ''} {text}".strip()[:SNIPPET]
    return found
