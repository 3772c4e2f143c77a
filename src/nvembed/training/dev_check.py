"""A small retrieval check on dev while a stage trains, and what it decides: the best weights, an early end.

Some dev queries and documents, drawn once by a fixed seed, are encoded by the model in training, with the stage's
lengths and the model's own text rule, every rank its share. The score is a function of the weights alone, and all that
was decided so far travels in checkpoints (`Best.state`), so a resumed run decides as the undisturbed one does.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from nvembed.core.errors import UserError
from nvembed.modeling.batching import evaluating
from nvembed.training.chunks import make_chunk
from nvembed.training.layout import Text
from nvembed.training.tokens import tokenize

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel
    from nvembed.recipe import DevCheck, Stage

SCORE = "dev/ndcg_at_10"
SECONDS = "dev/seconds"
CUTOFF = 10


def decides(check: DevCheck) -> bool:
    """Whether the checks have a say in the weights that come out."""
    return bool(check.every and (check.keep_best or check.patience))


@dataclass(frozen=True)
class DevTask:
    """A retrieval task: which of the texts are queries and documents, and which documents answer each query."""

    texts: list[Text]
    queries: list[int]
    documents: list[int]
    relevant: list[dict[int, int]]  # place among `documents` → grade


def read_dev_tasks(eval_sets: Path, check: DevCheck, stage: Stage) -> list[DevTask]:
    """The dev split's retrieval tasks, cut down to the check's size. Raises UserError if there is none."""
    from nvembed.data.evalsets import read_retrieval

    tasks = []
    for file in sorted((eval_sets / "dev").glob("*/task.json")):
        head = json.loads(file.read_text(encoding="utf-8"))
        if head["type"] == "Retrieval":
            tasks.append(_drawn(head, read_retrieval(file.parent), check, stage))
    if not tasks:
        raise UserError(f"{eval_sets}: no retrieval task under dev/; set dev_check.every to 0 or make the sets anew")
    return tasks


def _drawn(head: Mapping[str, Any], data: Mapping[str, Any], check: DevCheck, stage: Stage) -> DevTask:
    """Some queries; their relevant documents first, then others, as far as `check` allows."""
    draw = random.Random(f"{check.seed}/{head['name']}")
    queries = sorted(data["queries"])
    queries = sorted(draw.sample(queries, min(check.queries, len(queries))))
    answers = dict.fromkeys(doc for query in queries for doc in sorted(data["qrels"][query]))
    others = sorted(set(data["corpus"]) - set(answers))
    others = draw.sample(others, min(max(check.documents - len(answers), 0), len(others)))
    documents = [*answers, *others]
    place = {doc: index for index, doc in enumerate(documents)}
    told, own = head.get("instruction") or "", data["instructions"]
    asked = [Text(data["queries"][query], own.get(query, told), stage.query_max_length) for query in queries]
    found = [
        Text(data["corpus"][doc], head.get("document_instruction") or "", stage.document_max_length)
        for doc in documents
    ]
    return DevTask(
        texts=[*asked, *found],
        queries=list(range(len(asked))),
        documents=list(range(len(asked), len(asked) + len(found))),
        relevant=[{place[doc]: grade for doc, grade in data["qrels"][query].items()} for query in queries],
    )


class Checker:
    """Scores the model in training. All ranks make one, with the same tasks, and call it together."""

    def __init__(self, engine: Any, tasks: Sequence[DevTask], stage: Stage, rank: int, world: int) -> None:
        self.engine, self.stage, self.rank, self.world = engine, stage, rank, world
        model = engine.module.model
        # Here and once: a tokenizer serves one thread at a time, and the next batches are tokenised on another.
        self.tasks = [(task, tokenize(model, task.texts)) for task in tasks]

    def is_due(self, step: int) -> bool:
        """Whether `step` (from 1) ends with a check."""
        return step % self.stage.dev_check.every == 0 or step == self.stage.steps

    def __call__(self) -> dict[str, float]:
        """nDCG@10, the mean over queries and then tasks, the same on every rank; and the seconds it took."""
        began = time.monotonic()
        scores = []
        for task, tokenized in self.tasks:
            vectors = self._encode(tokenized)
            scores.append(ndcg_at_10(vectors[task.queries] @ vectors[task.documents].T, task.relevant))
        return {SCORE: sum(scores) / len(scores), SECONDS: time.monotonic() - began}

    @torch.no_grad()
    def _encode(self, tokenized: Sequence[Any]) -> torch.Tensor:
        """(n, dim) float32 vectors of texts, whole on every rank."""
        encoder, device = self.engine.module, self.engine.device
        model, packed = encoder.model, encoder.packed
        lengths = [len(item.input_ids) for item in tokenized]
        batches = encoder.batches(lengths, self.stage.micro_batch_tokens)
        turns = math.ceil(len(batches) / self.world)  # ZeRO 3 talks in every pass: all ranks must take as many
        batches += [[]] * (turns * self.world - len(batches))
        vectors = torch.zeros(len(tokenized), model.dim, device=device)
        with _without_dropout(model):
            if model.latent is not None:  # in one form on all ranks, as in a training step
                model.latent.choose_form(sum(sum(item.pool_mask) for item in tokenized), calls=len(batches))
            for rows in batches[self.rank :: self.world]:
                chunk = make_chunk(model, tokenized, rows, 0, packed=packed).to(device)
                vectors[chunk.rows] = encoder([chunk])[: len(rows)].float()
        if self.world > 1:
            dist.all_reduce(vectors)  # each row is of one rank and zero on the others
        return vectors


@contextmanager
def _without_dropout(model: NVEmbedModel) -> Iterator[None]:
    """Eval mode, but for the latent block: it has no dropout, and would keep a fold of weights that then change."""
    with evaluating(model):
        if model.latent is not None:
            model.latent.train()
        yield


def ndcg_at_10(scores: torch.Tensor, relevant: Sequence[Mapping[int, int]]) -> float:
    """Mean nDCG@10 of queries with graded relevance.

    DCG = Σ grade / log₂(rank + 1) over the first ten, over that of the best order (Järvelin and Kekäläinen, 2002, with
    trec_eval's linear gain).

    Args:
        scores: (queries, documents); higher is nearer.
        relevant: for each query column → grade above 0, at least one.
    """
    best = scores.float().cpu().argsort(dim=1, descending=True, stable=True)[:, :CUTOFF].tolist()
    total = 0.0
    for ranked, grades in zip(best, relevant, strict=True):
        ideal = _dcg(sorted(grades.values(), reverse=True)[:CUTOFF])
        total += _dcg([grades.get(column, 0) for column in ranked]) / ideal
    return total / len(relevant)


def _dcg(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(place + 2) for place, grade in enumerate(grades))


@dataclass(frozen=True)
class Best:
    """The best check so far, and how many came since. `step` 0: none yet."""

    step: int = 0
    score: float = -1.0
    checks_since: int = 0

    def after(self, step: int, score: float, min_gain: float) -> Best:
        """With one more check: it is the best if it gains more than `min_gain`, and the first always is."""
        if not self.step or score > self.score + min_gain:
            return Best(step, score)
        return replace(self, checks_since=self.checks_since + 1)

    def state(self) -> dict[str, Any]:
        """In JSON values; `Best(**state)` is it again."""
        return asdict(self)
