"""InfoNCE on cosines, with every document of its denominator named.

For a query q with its own positive p the loss is

    −log( exp(cos(q, p) / t) / Σ exp(cos(q, d) / t) ),   d over the denominator,

the denominator being: the own positive; the own hard negatives; and, with in-batch negatives, every other example's
positive and that example's hard negatives, over all ranks. A document whose text is that of an own positive is left out
of the negatives (`layout.py` decides this and hands over a mask). A document that stands in the batch more than once
counts each time, as it does in other libraries.

Source: van den Oord et al., arXiv 1807.03748, in the form of Karpukhin et al., arXiv 2004.04906, with NV-Embed's
choice of negatives (arXiv 2405.17428).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Comparison:
    """What each of `b` queries is compared with. A column is one occurrence of a document in the batch.

    Attributes:
        columns: (c,) int64, row of the document matrix that each column shows.
        target: (b,) int64, the column of each query's own positive.
        allowed: (b, c) bool, True where the column stands in the query's denominator; true at `target`.
    """

    columns: torch.Tensor
    target: torch.Tensor
    allowed: torch.Tensor

    def to(self, device: torch.device) -> Comparison:
        """The same on another device."""
        return Comparison(self.columns.to(device), self.target.to(device), self.allowed.to(device))


@dataclass(frozen=True)
class LossParts:
    """Losses of `b` queries, and sums (not means: they add up over ranks) of what one watches.

    Attributes:
        losses: (b,) float32 (or the vectors' wider type), one loss a query; carries the gradient.
        sums: (7,) float64, in the order of `SUMS`.
    """

    losses: torch.Tensor
    sums: torch.Tensor


SUMS = ("queries", "loss", "judged", "correct", "positive_similarity", "negatives", "negative_similarity")


def info_nce(queries: torch.Tensor, documents: torch.Tensor, comparison: Comparison, temperature: float) -> LossParts:
    """InfoNCE of local queries against (gathered) documents.

    Args:
        queries: (b, dim), rows of norm 1.
        documents: (n, dim), rows of norm 1; `comparison.columns` indexes it.
        comparison: the denominators.
        temperature: divides the cosines.

    Returns:
        The losses. A query with no negative at all has loss 0 and is not counted in accuracy.
    """
    wide = torch.promote_types(queries.dtype, torch.float32)
    cosines = (queries.to(wide) @ documents.to(wide).T)[:, comparison.columns]
    logits = (cosines / temperature).masked_fill(~comparison.allowed, float("-inf"))
    losses = torch.nn.functional.cross_entropy(logits, comparison.target, reduction="none")
    with torch.no_grad():
        sums = _sums(losses, logits, cosines, comparison)
    return LossParts(losses, sums)


def _sums(losses: torch.Tensor, logits: torch.Tensor, cosines: torch.Tensor, comparison: Comparison) -> torch.Tensor:
    """What `SUMS` names. A query is judged if it has a negative, and correct if its positive comes first."""
    own = torch.zeros_like(comparison.allowed).scatter_(1, comparison.target[:, None], True)
    negatives = comparison.allowed & ~own
    judged = negatives.any(dim=1)
    best_negative = logits.masked_fill(~negatives, float("-inf")).amax(dim=1)
    positive = logits.gather(1, comparison.target[:, None])[:, 0]
    correct = judged & (positive > best_negative)
    values = [
        torch.tensor(float(len(losses)), device=losses.device),
        losses.double().sum(),
        judged.sum(),
        correct.sum(),
        cosines.gather(1, comparison.target[:, None]).double().sum(),
        negatives.sum(),
        cosines.double().masked_fill(~negatives, 0).sum(),
    ]
    return torch.stack([value.double() for value in values])


def means(sums: torch.Tensor) -> dict[str, float]:
    """`SUMS` (added up over ranks) as loss, in-batch accuracy, positive and negative similarity."""
    total = dict(zip(SUMS, sums.tolist(), strict=True))
    return {
        "loss": total["loss"] / max(total["queries"], 1),
        "in_batch_accuracy": total["correct"] / max(total["judged"], 1),
        "positive_similarity": total["positive_similarity"] / max(total["queries"], 1),
        "negative_similarity": total["negative_similarity"] / max(total["negatives"], 1),
    }
