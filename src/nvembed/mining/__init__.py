"""Hard negatives: texts that a teacher finds close to a query and that are very likely no answer to it.

A teacher embeds every training query and passage once, an exact search finds the nearest passages of each query, and a
positive-aware rule of NV-Retriever (arXiv 2407.15831) throws out those so close to the query, measured by the
positive, that they are probably unlabelled answers. The nearest of what is left are the hard negatives.
"""

from nvembed.mining.miner import mine, mine_in_shards
from nvembed.mining.rules import DROPS, Choice, choose, score_ceiling
from nvembed.mining.search import pair_scores, top_k
from nvembed.mining.shards import mine_shard, plan_shards, shard_from_json

__all__ = [
    "DROPS",
    "Choice",
    "choose",
    "mine",
    "mine_in_shards",
    "mine_shard",
    "pair_scores",
    "plan_shards",
    "score_ceiling",
    "shard_from_json",
    "top_k",
]
