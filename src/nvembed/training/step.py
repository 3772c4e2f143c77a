"""One training step, whole: `Trainer.step` is the place to read what happens to a batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from nvembed.modeling.batching import token_batches, tokens_held
from nvembed.training import engine as engines
from nvembed.training.chunks import Chunk, chunk_seed, make_chunk
from nvembed.training.denominators import TeacherScores, known_classes
from nvembed.training.gather import gather_documents
from nvembed.training.layout import Layout, Text, lay_out
from nvembed.training.losses import LossParts, means, stage_loss
from nvembed.training.schedule import learning_rate_factor

if TYPE_CHECKING:
    from nvembed.data import BatchSampler
    from nvembed.modeling import NVEmbedModel
    from nvembed.recipe import Stage
    from nvembed.text import Tokenized


@dataclass(frozen=True)
class StepResult:
    """What a step tells: its record for the history, and whether some rank was asked to stop."""

    record: dict[str, float]
    stop: bool


class Trainer:
    """Takes steps with an engine.

    Args:
        engine: a DeepSpeed engine around `engine.Encoder`.
        sampler: (step) → the whole batch, the same on every rank.
        stage: the stage's section.
        rank, world: this rank and the number of ranks.
        device: where this rank computes.
        teacher: the scores to distil, where the stage distils.
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
        self.classes = known_classes(sampler.examples) if stage.false_negatives.same_class else None
        self.teacher = teacher
        self.stop_requested = False

    def step(self, step: int) -> StepResult:
        """Take step `step` (from 0). Raises FloatingPointError, no weight being changed, if the loss is not finite."""
        began = time.monotonic()
        stage, engine = self.stage, self.engine
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
        tokenized = tokenize(engine.module.model, layout.texts)
        chunks, fits, stop = self._cut(tokenized, step)
        rate = self._set_learning_rate(step)

        if fits:
            vectors = in_text_order(engine(chunks), chunks)
            parts = self._loss(vectors, layout)
            self._check_finite(parts, step)
            engine.set_gradient_accumulation_boundary(True)
            engine.backward(self._scaled(parts, layout))
        else:  # gradient cache (Gao et al., arXiv 2101.06983): exact, in the memory of one chunk
            with torch.no_grad():
                cached = in_text_order(torch.cat([engine.module([chunk]) for chunk in chunks]), chunks)
            cached.requires_grad_()
            parts = self._loss(cached, layout)
            self._check_finite(parts, step)
            self._scaled(parts, layout).backward()
            gradients = cached.grad
            assert gradients is not None
            for chunk in chunks:
                engine.set_gradient_accumulation_boundary(chunk is chunks[-1])
                vectors = engine([chunk])  # the chunk's seed repeats its dropout
                engine.backward(surrogate(vectors, gradients[chunk.rows]))

        norm = engines.clip_and_step(engine, stage.max_grad_norm)
        return StepResult(self._record(step, parts, tokenized, rate, norm, time.monotonic() - began, len(batch)), stop)

    def _cut(self, tokenized: Sequence[Tokenized], step: int) -> tuple[list[Chunk], bool, bool]:
        """This rank's chunks, as many as any rank has; whether all fit at once on every rank; whether to stop."""
        lengths = [len(item.input_ids) for item in tokenized]
        budget = int(self.stage.micro_batch_tokens)  # `auto` was settled before the ranks began
        model, packed = self.engine.module.model, self.engine.module.packed
        rows = token_batches(lengths, budget, packed=packed)
        pooled = sum(sum(item.pool_mask) for item in tokenized)
        count, too_large, stop, most = self._greatest(
            [len(rows), int(tokens_held(lengths, rows, packed=packed) > budget), int(self.stop_requested), pooled]
        )
        rows += [[]] * (count - len(rows))  # ZeRO 2 and 3 talk in every pass: all ranks must take as many
        if self.engine.module.model.latent is not None:  # in one form on all ranks: ZeRO wants one order of parameters
            self.engine.module.model.latent.choose_form(most, calls=count)
        seeds = [chunk_seed(self.stage.seed, step, self.rank, index) for index in range(count)]
        chunks = [
            make_chunk(model, tokenized, some, seed, packed=packed).to(self.device)
            for some, seed in zip(rows, seeds, strict=True)
        ]
        return chunks, not too_large, bool(stop)

    def _greatest(self, values: list[int]) -> list[int]:
        """The greatest of each value over all ranks."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [int(value) for value in tensor.tolist()]

    def _loss(self, vectors: torch.Tensor, layout: Layout) -> LossParts:
        """Losses of this rank's queries against the documents of all ranks (if any is in-batch) or its own."""
        documents = vectors[layout.documents.to(self.device)]
        if layout.gathered_rows is not None:
            documents = gather_documents(documents, layout.gathered_rows)
        queries = vectors[layout.queries.to(self.device)]
        return stage_loss(queries, documents, layout.comparison.to(self.device), self.stage)

    def _scaled(self, parts: LossParts, layout: Layout) -> torch.Tensor:
        """The scalar to differentiate: DeepSpeed's mean over ranks makes it the mean over the whole batch."""
        return parts.losses.sum() * (self.world / layout.batch_size)

    def _check_finite(self, parts: LossParts, step: int) -> None:
        """Stop all ranks if any has a loss that is no number. Adds up the sums of all ranks on the way."""
        if self.world > 1:
            dist.all_reduce(parts.sums)
        if not torch.isfinite(parts.sums[1]):
            ids = [example.id for example in self.sampler.batch(step)]
            raise FloatingPointError(f"step {step + 1}: the loss is {float(parts.sums[1])}; examples {' '.join(ids)}")

    def _set_learning_rate(self, step: int) -> float:
        """Set every group's rate for this step; the base rate, for the record."""
        factor = learning_rate_factor(step, steps=self.stage.steps, warmup_steps=self.stage.warmup_steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        return factor * self.stage.learning_rate

    def _record(
        self,
        step: int,
        parts: LossParts,
        tokenized: Sequence[Tokenized],
        rate: float,
        norm: float,
        seconds: float,
        examples: int,
    ) -> dict[str, float]:
        """The step's line in the history; tokens are real ones, padding left out, each text counted once."""
        tokens = torch.tensor(sum(len(item.input_ids) for item in tokenized), device=self.device)
        if self.world > 1:
            dist.all_reduce(tokens)
        return {
            "step": step + 1,
            **means(parts.sums, distilled=self.teacher is not None),
            "learning_rate": rate,
            "grad_norm": norm,
            "examples_per_second": examples / seconds,
            "tokens_per_second": float(tokens) / seconds,
        }


def tokenize(model: NVEmbedModel, texts: Sequence[Text]) -> list[Tokenized]:
    """Tokens of each text by the model's text rule; one call for each instruction and length."""
    tokenized: list[Tokenized | None] = [None] * len(texts)
    alike: dict[tuple[str, int], list[int]] = {}
    for index, text in enumerate(texts):
        alike.setdefault((text.instruction, text.max_length), []).append(index)
    for (instruction, max_length), places in alike.items():
        results = model.tokenize([texts[i].text for i in places], instruction, max_length)
        for index, result in zip(places, results, strict=True):
            tokenized[index] = result
    return [item for item in tokenized if item is not None]


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
