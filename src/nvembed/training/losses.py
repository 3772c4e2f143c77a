"""InfoNCE on cosines, with every document of its denominator named and weighed.

For a query q with its own positive p the loss is

    −log( exp(cos(q, p) / t) / (exp(cos(q, p) / t) + Σ w(d) · exp(cos(q, d) / t)) ),   d over the negatives,

the negatives being: the own hard negatives; and, with in-batch negatives, every other example's positive and (unless
`in_batch.others_hard_negatives` is false) that example's hard negatives, over all ranks. Left out is a document whose
text is that of an own positive, and whatever else `denominators.py` knows to be no negative: it decides by text and
hands over a mask. A document that stands in the batch more than once counts each time, as it does in other libraries.

The weight of a negative d is

    w(d) = hard_negatives_weight · exp(hardness.strength · cos(q, d))    of an own hard negative,
    w(d) = in_batch.weight · exp(hardness.strength · cos(q, d))          of another example's document,

the factor exp(…) only for the negatives that `hardness.of` names, and taken as a constant: no gradient flows through
it. Weights enter as logarithms added to the logits. With `false_negatives.margin` m a negative with
cos(q, d) > cos(q, p) + m is left out, which is decided without gradient too. By default every weight is 1 and nothing
is left out by margin.

`stage_loss` adds what a stage may want beside it. With V the vectors and V[:k] their first k entries made unit length:

    loss = L(V) + Σ matryoshka.weights[i] · L(V[:matryoshka.dims[i]]),
    L = InfoNCE + distillation.weight · KL(softmax(teacher / t′) ‖ softmax(cos / t)),

the divergence over the query's own positive and own hard negatives that the teacher has scored; 0 for a query of which
it scored fewer than two.

Sources: van den Oord et al., arXiv 1807.03748, in the form of Karpukhin et al., arXiv 2004.04906, with NV-Embed's
choice of negatives (arXiv 2405.17428); margin: Qwen3 Embedding, arXiv 2506.05176; hardness: LLaVE, arXiv 2503.04812,
and EmbeddingGemma, arXiv 2509.20354; prefixes: Kusupati et al., arXiv 2205.13147; distillation: Hinton et al., arXiv
1503.02531.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn.functional import cross_entropy, kl_div, normalize

from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from nvembed.recipe import Stage


@dataclass(frozen=True)
class Comparison:
    """What each of `b` queries is compared with. A column is one occurrence of a document in the batch.

    Attributes:
        columns: (c,) int64, row of the document matrix that each column shows.
        target: (b,) int64, the column of each query's own positive.
        allowed: (b, c) bool, True where the column stands in the query's denominator; true at `target`.
        own: (b, c) bool, True where the column is a document of the query's own example.
        teacher: (b, c) float32, the teacher's score of the query's own documents, NaN where there is none; or None.
    """

    columns: torch.Tensor
    target: torch.Tensor
    allowed: torch.Tensor
    own: torch.Tensor
    teacher: torch.Tensor | None = None

    def to(self, device: torch.device) -> Comparison:
        """The same on another device."""
        return Comparison(
            self.columns.to(device),
            self.target.to(device),
            self.allowed.to(device),
            self.own.to(device),
            None if self.teacher is None else self.teacher.to(device),
        )

    def negatives(self) -> torch.Tensor:
        """(b, c) bool, True where the column is a negative in the query's denominator."""
        target = torch.zeros_like(self.allowed).scatter_(1, self.target[:, None], True)
        return self.allowed & ~target


@dataclass(frozen=True)
class Weighing:
    """How the negatives of a denominator are weighed; the defaults are plain InfoNCE. See the module's formula."""

    hard: float = 1.0
    in_batch: float = 1.0
    hardness: float = 0.0
    hardness_of: Literal["all", "hard", "in-batch"] = "all"
    margin: float | None = None

    @classmethod
    def of(cls, stage: Stage) -> Weighing:
        """A stage's."""
        return cls(
            hard=stage.hard_negatives_weight,
            in_batch=stage.in_batch.weight,
            hardness=stage.hardness.strength,
            hardness_of=stage.hardness.of,
            margin=stage.false_negatives.margin,
        )


@dataclass(frozen=True)
class LossParts:
    """Losses of `b` queries, and sums (not means: they add up over ranks) of what one watches.

    Attributes:
        losses: (b,) float32 (or the vectors' wider type), one loss a query; carries the gradient.
        sums: (9 + number of Matryoshka lengths,) float64: `SUMS`, then each length's own loss before its weight.
    """

    losses: torch.Tensor
    sums: torch.Tensor


SUMS = (
    *("queries", "loss", "judged", "correct", "positive_similarity", "negatives", "negative_similarity"),
    *("info_nce", "distillation"),
)


def stage_loss(queries: torch.Tensor, documents: torch.Tensor, comparison: Comparison, stage: Stage) -> LossParts:
    """The whole loss of a stage, of local queries against (gathered) documents.

    Args:
        queries: (b, dim), rows of norm 1.
        documents: (n, dim), rows of norm 1 where a column shows them; `comparison.columns` indexes it.
        comparison: the denominators.
        stage: the stage's section: temperature, weights, Matryoshka, distillation.

    Returns:
        The losses, and the sums of the whole vectors, their "loss" apart, which is the whole loss.

    Raises:
        UserError: a length in `matryoshka.dims` is not below the vectors' own.
    """
    parts = _one_length(queries, documents, comparison, stage)
    dims = stage.matryoshka.dims
    if not dims:
        return parts
    losses, sums = parts.losses, parts.sums.clone()
    for dim, weight in zip(dims, stage.matryoshka.weights or [1.0] * len(dims), strict=True):
        if dim >= queries.shape[1]:
            raise UserError(f"matryoshka.dims: {dim} is not below the {queries.shape[1]} of the whole vector; lower it")
        short = _one_length(_shortened(queries, dim), _shortened(documents, dim), comparison, stage)
        losses = losses + weight * short.losses
        its_loss = short.sums[SUMS.index("loss")]
        sums[SUMS.index("loss")] += weight * its_loss
        sums = torch.cat([sums, its_loss[None]])
    return LossParts(losses, sums)


def _shortened(vectors: torch.Tensor, dim: int) -> torch.Tensor:
    """The first `dim` entries of each row, made unit length in float32 or wider."""
    return normalize(vectors[:, :dim].to(torch.promote_types(vectors.dtype, torch.float32)))


def _one_length(queries: torch.Tensor, documents: torch.Tensor, comparison: Comparison, stage: Stage) -> LossParts:
    """InfoNCE and, where there is a teacher, the divergence from it, of vectors of one length."""
    parts = info_nce(queries, documents, comparison, stage.temperature, Weighing.of(stage))
    if comparison.teacher is None or not stage.distillation.weight:
        return parts
    teacher_temperature = stage.distillation.teacher_temperature or stage.temperature
    divergences = distillation(queries, documents, comparison, stage.temperature, teacher_temperature)
    losses = parts.losses + stage.distillation.weight * divergences
    sums = parts.sums.clone()
    sums[SUMS.index("loss")] = losses.detach().double().sum()
    sums[SUMS.index("distillation")] = divergences.detach().double().sum()
    return LossParts(losses, sums)


def info_nce(
    queries: torch.Tensor,
    documents: torch.Tensor,
    comparison: Comparison,
    temperature: float,
    weighing: Weighing = Weighing(),
) -> LossParts:
    """InfoNCE of local queries against (gathered) documents, by the module's formula.

    Args:
        queries: (b, dim), rows of norm 1.
        documents: (n, dim), rows of norm 1; `comparison.columns` indexes it.
        comparison: the denominators.
        temperature: divides the cosines.
        weighing: weights of the negatives.

    Returns:
        The losses. A query with no negative at all has loss 0 and is not counted in accuracy.
    """
    cosines = _cosines(queries, documents, comparison)
    comparison = _without_false_negatives(cosines, comparison, weighing.margin)
    logits = (cosines / temperature).masked_fill(~comparison.allowed, float("-inf"))
    weighed = (
        logits if weighing == Weighing(margin=weighing.margin) else logits + _log_weights(cosines, comparison, weighing)
    )
    losses = cross_entropy(weighed, comparison.target, reduction="none")
    with torch.no_grad():
        sums = _sums(losses, logits, cosines, comparison)
    return LossParts(losses, sums)


def distillation(
    queries: torch.Tensor,
    documents: torch.Tensor,
    comparison: Comparison,
    temperature: float,
    teacher_temperature: float,
) -> torch.Tensor:
    """How far the model's choice among the own documents lies from the teacher's: (b,) divergences KL(teacher ‖ model).

    `comparison.teacher` must be there. Both sides are softmaxes over the documents that have a score: of the teacher's
    scores over `teacher_temperature`, and of the cosines over `temperature`.
    """
    assert comparison.teacher is not None
    cosines = _cosines(queries, documents, comparison)
    scored = ~comparison.teacher.isnan()
    nothing = ~scored.any(dim=1, keepdim=True)  # such a row keeps its positive: one document has share 1 on both sides
    scored |= nothing & torch.zeros_like(scored).scatter_(1, comparison.target[:, None], True)
    wanted = (comparison.teacher.nan_to_num().to(cosines) / teacher_temperature).masked_fill(~scored, float("-inf"))
    found = (cosines / temperature).masked_fill(~scored, float("-inf")).log_softmax(dim=1)
    # What is not scored has probability 0 on both sides; −inf in the product of the two would give NaN.
    return kl_div(found.masked_fill(~scored, 0), wanted.softmax(dim=1), reduction="none").sum(dim=1)


def _cosines(queries: torch.Tensor, documents: torch.Tensor, comparison: Comparison) -> torch.Tensor:
    """(b, c) cosines of queries and columns, in float32 or wider."""
    wide = torch.promote_types(queries.dtype, torch.float32)
    return (queries.to(wide) @ documents.to(wide).T)[:, comparison.columns]


def _without_false_negatives(cosines: torch.Tensor, comparison: Comparison, margin: float | None) -> Comparison:
    """The denominators without negatives whose cosine exceeds the positive's by more than `margin`."""
    if margin is None:
        return comparison
    with torch.no_grad():
        positive = cosines.gather(1, comparison.target[:, None])
        return replace(comparison, allowed=comparison.allowed & ~(cosines > positive + margin))


def _log_weights(cosines: torch.Tensor, comparison: Comparison, weighing: Weighing) -> torch.Tensor:
    """(b, c) logarithms of the weights, without gradient; 0 for the positives."""
    with torch.no_grad():
        terms = torch.full_like(cosines, math.log(weighing.in_batch)).masked_fill(
            comparison.own, math.log(weighing.hard)
        )
        wanted = {"all": torch.ones_like(comparison.own), "hard": comparison.own, "in-batch": ~comparison.own}
        hardness = (weighing.hardness * cosines).masked_fill(~wanted[weighing.hardness_of], 0)
        return (terms + hardness).scatter(1, comparison.target[:, None], 0)


def _sums(losses: torch.Tensor, logits: torch.Tensor, cosines: torch.Tensor, comparison: Comparison) -> torch.Tensor:
    """What `SUMS` names. A query is judged if it has a negative, and correct if its positive comes first."""
    negatives = comparison.negatives()
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
        losses.double().sum(),
        torch.zeros((), device=losses.device),
    ]
    return torch.stack([value.double() for value in values])


def means(sums: torch.Tensor, *, distilled: bool = False, dims: Sequence[int] = ()) -> dict[str, float]:
    """`SUMS` (added up over ranks) as loss, in-batch accuracy, positive and negative similarity.

    Where the loss has parts, `distilled` or Matryoshka's `dims`, they too: InfoNCE and divergence from the teacher of
    the whole vectors, and the whole loss of each shorter length, all before their weights.
    """
    total = dict(zip(SUMS, sums.tolist(), strict=False))
    queries = max(total["queries"], 1)
    watched = {
        "loss": total["loss"] / queries,
        "in_batch_accuracy": total["correct"] / max(total["judged"], 1),
        "positive_similarity": total["positive_similarity"] / queries,
        "negative_similarity": total["negative_similarity"] / max(total["negatives"], 1),
    }
    if distilled or dims:
        watched["info_nce_loss"] = total["info_nce"] / queries
    if distilled:
        watched["distillation_loss"] = total["distillation"] / queries
    short = sums[len(SUMS) :].tolist()
    return watched | {f"matryoshka_{dim}_loss": value / queries for dim, value in zip(dims, short, strict=True)}
