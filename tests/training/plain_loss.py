"""A stage's loss written as the formulas stand, in loops over texts: what the loss in matrices must equal.

It shares nothing with `nvembed.training` but the names of a stage's keys.
"""

import hashlib
import math

import numpy as np
import torch

from nvembed.data import Example


def example(query, positive, negatives=(), **other):
    """An example of which only the texts matter."""
    fields = {"task": "t", "task_type": "retrieval", "query_instruction": "find", "document_instruction": ""}
    fields |= {"source": "s", "license": "l", "id": query + positive} | other
    return Example(query=query, positive=positive, negatives=tuple(negatives), **fields)


def vector_of(text, dim=8):
    """A fixed unit vector a `layout.Text`, in float64; different texts have different ones."""
    digest = hashlib.sha256(f"{text.text}|{text.instruction}".encode()).digest()
    row = np.random.default_rng(int.from_bytes(digest[:8], "big")).normal(size=dim)
    return row / np.linalg.norm(row)


def plain_losses(batch, stage, query, document, *, same_class=None, scores=None):
    """The loss of each example: a tensor that carries the gradient.

    `query(example)` and `document(example, text)` give vectors of any length; `same_class(example, text)` says what is
    known; `scores` are the teacher's, by example's id and text.
    """
    losses = []
    for one in batch:
        loss = 0.0
        for dim, weight in zip([None, *stage.matryoshka.dims], [1.0, *_weights(stage)], strict=True):
            loss = loss + weight * _at(dim, one, batch, stage, query, document, same_class, scores)
        losses.append(loss)
    return torch.stack(losses)


def _weights(stage):
    return stage.matryoshka.weights or [1.0 for _ in stage.matryoshka.dims]


def _at(dim, one, batch, stage, query, document, same_class, scores):
    """InfoNCE and distillation of one example, of the vectors' first `dim` entries."""

    def cosine(other, text):
        a, b = query(one)[:dim], document(other, text)[:dim]
        return (a @ b) / (a.norm() * b.norm())

    positive = cosine(one, one.positive)
    denominator = torch.exp(positive / stage.temperature)
    for other in batch:
        for place, text in enumerate([other.positive, *other.negatives[: stage.negatives]]):
            own = other is one
            if text == one.positive or (not own and not _compared(one, stage, place)):
                continue
            if same_class is not None and same_class(one, text):
                continue
            found = cosine(other, text)
            margin = stage.false_negatives.margin
            if margin is not None and found.item() > positive.item() + margin:
                continue
            weight = stage.hard_negatives_weight if own else stage.in_batch.weight
            if stage.hardness.of in ("all", "hard" if own else "in-batch"):
                weight *= math.exp(stage.hardness.strength * found.item())
            denominator = denominator + weight * torch.exp(found / stage.temperature)
    loss = torch.log(denominator) - positive / stage.temperature
    known = (scores or {}).get(one.id, {})
    texts = [text for text in [one.positive, *own_negatives(one, stage)] if text in known]
    if stage.distillation.weight and len(texts) > 1:
        loss = loss + stage.distillation.weight * _divergence([cosine(one, t) for t in texts], texts, known, stage)
    return loss


def _compared(one, stage, place):
    on = stage.in_batch.enabled
    on = (on or one.task in stage.in_batch.on_for) and one.task not in stage.in_batch.off_for
    return on and (place == 0 or stage.in_batch.others_hard_negatives)


def own_negatives(one, stage):
    """Hard negatives that are used and are not the positive."""
    return [text for text in one.negatives[: stage.negatives] if text != one.positive]


def _divergence(cosines, texts, known, stage):
    """Σ p·log(p/q), p the teacher's share of each text and q the model's."""
    heat = stage.distillation.teacher_temperature or stage.temperature
    p = [math.exp(known[text] / heat) for text in texts]
    q = [torch.exp(cosine / stage.temperature) for cosine in cosines]
    return sum(a / sum(p) * (math.log(a / sum(p)) - torch.log(b / sum(q))) for a, b in zip(p, q, strict=True))
