"""One training step, whole: `Trainer.step` is the place to read what happens to a batch."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from nvembed.modeling.batching import tokens_held
from nvembed.training import engine as engines
from nvembed.training.bad_steps import BadStepJudge
from nvembed.training.chunks import Chunk, chunk_seed, make_chunk
from nvembed.training.denominators import LABELLED, TeacherScores, known_classes
from nvembed.training.gather import gather_documents
from nvembed.training.groups import groups_of
from nvembed.training.layout import Layout, lay_out
from nvembed.training.losses import LossParts, means, stage_loss
from nvembed.training.peak import Work, cost_of, memory_megabytes
from nvembed.training.prefetch import Prefetch
from nvembed.training.schedule import learning_rate_factor
from nvembed.training.tokens import tokenize

if TYPE_CHECKING:
    from nvembed.data import BatchSampler, Example
    from nvembed.recipe import Stage
    from nvembed.text import Tokenized


@dataclass(frozen=True)
class Asked:
    """What some rank asked for: to stop after this step, to write a checkpoint; and the most memory held before it."""

    stop: bool
    checkpoint: bool
    memory_megabytes: int


@dataclass(frozen=True)
class StepResult:
    """What a step tells: its record for the history, what was asked for, and why it was left out, if it was."""

    record: dict[str, float]
    asked: Asked
    batch: list[Example]
    bad: str | None = None
    loss: float = math.nan
    grad_norm: float = math.nan


@dataclass(frozen=True)
class Ready:
    """A step's batch, this rank's share of it, and its tokens."""

    batch: list[Example]
    layout: Layout
    tokenized: list[Tokenized]


class Trainer:
    """Takes steps with an engine.

    Args:
        engine: a DeepSpeed engine around `engine.Encoder`.
        sampler: (step) → the whole batch, the same on every rank.
        stage: the stage's section.
        rank, world: this rank and the number of ranks.
        device: where this rank computes.
        teacher: the scores to distil, where the stage distils.

    Attributes:
        judge: says which steps are bad.
        stop_requested: set on any rank: all ranks hear of it in the step they are in.
        checkpoint_requested: likewise, before a step; so one rank's clock decides for all.
        peak_flops: FLOP/s of one rank's device, if its share is to be told.
    """

    def __init__(
        self,
        engine: Any,
        sampler: BatchSampler,
        stage: Stage,
        rank: int,
        world: int,
        device: torch.device,
        teacher: TeacherScores | None = None,
    ) -> None:
        self.engine, self.sampler, self.stage = engine, sampler, stage
        self.rank, self.world, self.device = rank, world, device
        self.classes = known_classes(sampler.of_types(LABELLED)) if stage.false_negatives.same_class else None
        self.teacher = teacher
        self.judge = BadStepJudge(stage.bad_steps)
        self.stop_requested = self.checkpoint_requested = False
        self.peak_flops: float | None = None
        self._cost = cost_of(engine.module.model)
        self._batches = Prefetch(self._make_ready, stage.steps)

    def step(self, step: int) -> StepResult:
        """Take step `step` (from 0). A bad one, by loss or gradient, changes no weight and says so."""
        began = time.monotonic()
        stage, engine = self.stage, self.engine
        ready = self._batches.get(step)  # made while the last step computed
        layout, waited = ready.layout, time.monotonic() - began
        chunks, fits, asked = self._cut(ready.tokenized, step)
        groups = [] if fits else self._in_groups(ready, step)
        rate = self._set_learning_rate(step)

        if fits:
            vectors = in_text_order(engine(chunks), chunks)
            parts, loss, bad = self._loss(vectors, layout)
            if not bad:
                engine.set_gradient_accumulation_boundary(True)
                engine.backward(self._scaled(parts, layout))
        elif groups:  # no example needs another one: no second forward pass
            parts, loss, bad = self._accumulate(groups, layout)
        else:  # gradient cache (Gao et al., arXiv 2101.06983): exact, in the memory of one chunk
            with torch.no_grad():
                cached = in_text_order(torch.cat([engine.module([chunk]) for chunk in chunks]), chunks)
            cached.requires_grad_()
            parts, loss, bad = self._loss(cached, layout)
            if not bad:
                self._scaled(parts, layout).backward()
                gradients = cached.grad
                assert gradients is not None
                for chunk in chunks:
                    engine.set_gradient_accumulation_boundary(chunk is chunks[-1])
                    vectors = engine([chunk])  # the chunk's seed repeats its dropout
                    engine.backward(surrogate(vectors, gradients[chunk.rows]))

        norm = math.nan
        if not bad:
            norm = engines.clip_and_step(engine, stage.max_grad_norm)
            bad = self.judge.of_gradient(norm)
        self.judge.note(loss, bad)
        work, stop = self._of_all_ranks(ready)
        asked = replace(asked, stop=asked.stop or stop)
        speed = self._speed(ready, work, asked, 1 if fits or groups else 2, began)
        told = {"learning_rate": rate, "data_wait_seconds": waited, **speed}
        if not bad:
            told |= means(parts.sums, distilled=self.teacher is not None, dims=stage.matryoshka.dims)
            told["grad_norm"] = norm
        if stage.bad_steps.policy == "skip":
            told |= {"skipped": float(bad is not None)}
        return StepResult({"step": step + 1, **told}, asked, ready.batch, bad, loss, norm)

    def _make_ready(self, step: int) -> Ready:
        """A step's batch, laid out and tokenised. Runs on a thread of its own; depends on nothing but the step."""
        stage = self.stage
        batch = self.sampler.batch(step)
        layout = lay_out(
            batch,
            negatives=stage.negatives,
            in_batch=stage.in_batch,
            query_max_length=stage.query_max_length,
            document_max_length=stage.document_max_length,
            rank=self.rank,
            world=self.world,
            classes=self.classes,
            teacher=self.teacher,
        )
        return Ready(batch, layout, tokenize(self.engine.module.model, layout.texts))

    def _cut(self, tokenized: Sequence[Tokenized], step: int) -> tuple[list[Chunk], bool, Asked]:
        """This rank's chunks, as many as any rank has; whether all fit at once on every rank; what is asked for."""
        lengths = [len(item.input_ids) for item in tokenized]
        budget = int(self.stage.micro_batch_tokens)  # `auto` was settled before the ranks began
        model, packed = self.engine.module.model, self.engine.module.packed
        rows = self.engine.module.batches(lengths, budget)
        pooled = sum(sum(item.pool_mask) for item in tokenized)
        too_large = int(tokens_held(lengths, rows, packed=packed) > budget)
        asked = [int(self.stop_requested), int(self.checkpoint_requested), memory_megabytes(self.device)]
        count, too_large, most, *asked = self._greatest([len(rows), too_large, pooled, *asked])
        rows += [[]] * (count - len(rows))  # ZeRO 2 and 3 talk in every pass: all ranks must take as many
        if model.latent is not None:  # in one form on all ranks: ZeRO wants one order of parameters
            model.latent.choose_form(most, calls=count)
        return self._chunks(tokenized, rows, step), not too_large, Asked(bool(asked[0]), bool(asked[1]), asked[2])

    def _chunks(self, tokenized: Sequence[Tokenized], rows: list[list[int]], step: int, first: int = 0) -> list[Chunk]:
        """Chunks on the device; they are numbered from `first` within the step, for their seeds."""
        encoder = self.engine.module
        return [
            make_chunk(
                encoder.model,
                tokenized,
                some,
                chunk_seed(self.stage.seed, step, self.rank, first + place),
                packed=encoder.packed,
            ).to(self.device)
            for place, some in enumerate(rows)
        ]

    def _in_groups(self, ready: Ready, step: int) -> list[tuple[Layout | None, list[Chunk]]]:
        """Groups of examples that need no others, each with its chunks; as many of both as any rank has; or none.

        A group without a layout only keeps pace with other ranks.
        """
        encoder, tokenized, budget = self.engine.module, ready.tokenized, int(self.stage.micro_batch_tokens)

        def batches(texts: Sequence[int]) -> tuple[list[list[int]], int]:
            lengths = [len(tokenized[text].input_ids) for text in texts]
            rows = encoder.batches(lengths, budget)
            return rows, tokens_held(lengths, rows, packed=encoder.packed)

        # A spike is known when all gradients are there, and only without ZeRO can they then be dropped.
        droppable = self.stage.zero_stage == 0 or self.stage.bad_steps.spike_factor is None
        groups = groups_of(ready.layout, lambda texts: batches(texts)[1], budget) if droppable else None
        cannot, count = self._greatest([int(groups is None), len(groups or [])])
        if cannot or groups is None:
            return []
        idle = count - len(groups)
        rows = [batches(group.texts)[0] for group in groups] + [[] for _ in range(idle)]
        texts = [[tokenized[text] for text in group.texts] for group in groups] + [tokenized] * idle
        first, taken = 0, []
        for place, most in enumerate(self._greatest([len(some) for some in rows])):
            chunks = self._chunks(texts[place], rows[place] + [[]] * (most - len(rows[place])), step, first)
            taken.append((groups[place].layout if place < len(groups) else None, chunks))
            first += most
        return taken

    def _accumulate(
        self, groups: list[tuple[Layout | None, list[Chunk]]], layout: Layout
    ) -> tuple[LossParts, float, str | None]:
        """Forward and backward, group by group; what `_loss` gives, of all. A bad batch's gradients are gone."""
        engine, losses = self.engine, []
        for place, (share, chunks) in enumerate(groups):
            engine.set_gradient_accumulation_boundary(place == len(groups) - 1)
            vectors = in_text_order(engine(chunks), chunks)
            if share is None:
                engine.backward(0 * vectors.sum())
                continue
            found = self._compare(vectors, share)
            engine.backward(self._scaled(found, layout))
            losses.append(LossParts(found.losses.detach(), found.sums))
        parts = LossParts(torch.cat([one.losses for one in losses]), torch.stack([one.sums for one in losses]).sum(0))
        parts, loss, bad = self._judged(parts)
        if bad:
            engines.drop_gradients(engine)
        return parts, loss, bad

    def _greatest(self, values: list[int]) -> list[int]:
        """The greatest of each value over all ranks."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [int(value) for value in tensor.tolist()]

    def _loss(self, vectors: torch.Tensor, layout: Layout) -> tuple[LossParts, float, str | None]:
        """Losses of this rank's queries, their mean over the whole batch, and what is wrong with it."""
        return self._judged(self._compare(vectors, layout))

    def _compare(self, vectors: torch.Tensor, layout: Layout) -> LossParts:
        """Losses of this rank's queries against the documents of all ranks (if any is in-batch) or its own."""
        documents = vectors[layout.documents.to(self.device)]
        if layout.gathered_rows is not None:
            documents = gather_documents(documents, layout.gathered_rows)
        queries = vectors[layout.queries.to(self.device)]
        return stage_loss(queries, documents, layout.comparison.to(self.device), self.stage)

    def _judged(self, parts: LossParts) -> tuple[LossParts, float, str | None]:
        """The losses, their mean over the whole batch, and what is wrong with it; sums become those of all ranks."""
        if self.world > 1:
            dist.all_reduce(parts.sums)
        loss = means(parts.sums, dims=self.stage.matryoshka.dims)["loss"]
        return parts, loss, self.judge.of_loss(loss)

    def _scaled(self, parts: LossParts, layout: Layout) -> torch.Tensor:
        """The scalar to differentiate: DeepSpeed's mean over ranks makes it the mean over the whole batch."""
        return parts.losses.sum() * (self.world / layout.batch_size)

    def _set_learning_rate(self, step: int) -> float:
        """Set every group's rate for this step; the base rate, for the record."""
        factor = learning_rate_factor(step, steps=self.stage.steps, warmup_steps=self.stage.warmup_steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        return factor * self.stage.learning_rate

    def _of_all_ranks(self, ready: Ready) -> tuple[Work, bool]:
        """The work of all ranks together, and whether any was asked to stop while the step was taken."""
        own = Work.of(ready.tokenized)
        units = torch.tensor([own.tokens, own.pooled, own.pairs, int(self.stop_requested)], dtype=torch.float64)
        units = units.to(self.device)
        if self.world > 1:
            dist.all_reduce(units)
        *work, stop = map(int, units.tolist())
        return Work(*work), stop > 0

    def _speed(self, ready: Ready, work: Work, asked: Asked, passes: int, began: float) -> dict[str, float]:
        """Speed, share of peak and memory. Tokens are real ones, padding left out, each text counted once."""
        seconds = time.monotonic() - began
        told = {
            "step_seconds": seconds,
            "examples_per_second": len(ready.batch) / seconds,
            "tokens_per_second": work.tokens / seconds,
            "memory_gigabytes": asked.memory_megabytes / 1024,
        }
        if self.peak_flops:
            latent = self.engine.module.model.latent
            flops = self._cost.flops(
                work,
                forward_passes=passes + bool(self.stage.gradient_checkpointing),
                folded=latent is not None and latent.folded,
            )
            told["peak_share"] = flops / seconds / (self.peak_flops * self.world)
        return told


def in_text_order(encoded: torch.Tensor, chunks: Sequence[Chunk]) -> torch.Tensor:
    """Vectors in the order of the texts, from vectors in the order of the chunks.

    Vectors of empty chunks stand last; they get a gradient of zero, so that every rank's backward pass is alike.
    """
    rows = torch.cat([chunk.rows for chunk in chunks])
    placed = torch.zeros_like(encoded[: len(rows)]).index_copy(0, rows, encoded[: len(rows)])
    return placed if len(encoded) == len(rows) else placed + 0 * encoded[len(rows) :].sum()


def surrogate(vectors: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """A scalar whose gradient by the chunk's vectors is `gradients`; zero for an empty chunk."""
    return (vectors[: len(gradients)] * gradients).sum() + 0 * vectors.sum()
