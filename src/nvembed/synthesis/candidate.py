"""An example as a model wrote it, with all that is known of it: where it comes from, its scores, why it was refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nvembed.data.evalsets import SYNTHETIC

if TYPE_CHECKING:
    import pyarrow as pa

RETRIEVAL = f"{SYNTHETIC}-retrieval"
"""The task's name in training rows and eval sets: whatever reports a score by it says that it is synthetic."""


@dataclass
class Candidate:
    """One query with its positive and hard negatives.

    Attributes:
        split: train, dev or test. kind, length, language: what was asked for. instruction: the task sentence.
        passage, document, place: of examples from documents; empty and -1 otherwise.
        model, prompt, seed, request: who wrote it, the prompts' version, the request's seed and key.
        leakage: share of the query's words that stand in the positive.
        rank: of the positive among all others by the teacher, 1 the best; similarity: its cosine; None: not ranked.
        judged: a model's score from 1 to 5; None: not judged.
        refused: why it is left out; empty if it is accepted.
    """

    query: str
    positive: str
    negatives: tuple[str, ...]
    split: str
    task: str
    task_type: str
    instruction: str
    kind: str
    length: str
    language: str
    model: str
    prompt: str
    seed: int
    request: str
    passage: str = ""
    document: str = ""
    place: int = -1
    leakage: float = 0.0
    rank: int | None = None
    similarity: float | None = None
    judged: int | None = None
    refused: str = ""
    negatives_dropped: int = field(default=0, compare=False)


def candidate_schema() -> pa.Schema:
    """The columns of `synthetic.parquet`: `id` is that of the training example, empty where there is none."""
    import pyarrow as pa

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    types = {
        **dict.fromkeys(("id", "split", "accepted", "refused", "task", "task_type", "query", "positive"), text),
        "accepted": pa.bool_(),
        **dict.fromkeys(("kind", "length", "language", "model", "prompt", "request", "passage", "document"), text),
        **dict.fromkeys(("seed", "rank", "judged"), whole),
        **dict.fromkeys(("leakage", "similarity"), real),
    }
    return pa.schema([pa.field(name, kind) for name, kind in types.items()])
