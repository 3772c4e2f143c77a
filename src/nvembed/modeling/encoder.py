"""Texts to vectors with one model on one device: equal texts once, sorted by length, in batches of a token budget.

Where memory runs out the budget is halved, for good, and encoding goes on from the batch that failed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Unpack

import numpy as np
import torch

from nvembed.core.errors import UserError
from nvembed.core.progress import Progress
from nvembed.modeling.batching import Precision, autocast, evaluating, token_batches
from nvembed.modeling.plan import Plan, PlanOptions, make_plan
from nvembed.modeling.replica import in_half
from nvembed.text import Tokenized, check_texts

if TYPE_CHECKING:
    from nvembed.modeling.model import NVEmbedModel

logger = logging.getLogger(__name__)
CHUNK_TEXTS, CHUNK_CHARACTERS = 4096, 1 << 20
Report = Callable[[int], None]


class TextEncoder(Protocol):
    """Distinct texts → stored vectors; `report` hears how many are done. One device, or several."""

    def encode(self, texts: Sequence[str], report: Report) -> np.ndarray: ...


class Tokens:
    """The tokens of many texts in flat arrays, 5 bytes a token; lists of Python integers take ten times that.

    Attributes:
        lengths: int64 (n,), tokens of each text.
    """

    def __init__(self, chunks: Iterable[list[Tokenized]]) -> None:
        ids, masks, lengths = [], [], []
        for chunk in chunks:
            sizes = np.array([len(item.input_ids) for item in chunk], dtype=np.int64)
            total = int(sizes.sum())
            ids.append(np.fromiter(chain.from_iterable(item.input_ids for item in chunk), np.int32, total))
            masks.append(np.fromiter(chain.from_iterable(item.pool_mask for item in chunk), np.bool_, total))
            lengths.append(sizes)
        self._ids = np.concatenate([np.empty(0, np.int32), *ids])
        self._masks = np.concatenate([np.empty(0, np.bool_), *masks])
        self.lengths = np.concatenate([np.empty(0, np.int64), *lengths])
        self._ends = np.cumsum(self.lengths)

    def __getitem__(self, index: int) -> Tokenized:
        end = int(self._ends[index])
        span = slice(end - int(self.lengths[index]), end)
        return Tokenized(self._ids[span].tolist(), self._masks[span].tolist())


class Encoder:
    """A `TextEncoder` on the model's own device. Its token budget, once smaller, stays so for its lifetime."""

    def __init__(self, model: NVEmbedModel, plan: Plan) -> None:
        self.model, self.plan, self.budget = model, plan, plan.batch_tokens
        self._packed = self._has_warned = False
        self._forward = model

    def encode(self, texts: Sequence[str], report: Report = lambda _: None) -> np.ndarray:
        """Stored vectors of `texts`, in their order. Raises UserError if a single text does not fit into memory."""
        plan = self.plan
        tokens = Tokens(self.model.tokenize(chunk, plan.instruction, plan.max_length) for chunk in _chunks(texts))
        vectors = plan.empty(len(texts))
        left = np.arange(len(texts))
        with evaluating(self.model), torch.inference_mode(), autocast(plan.compute, self.model.device):
            self._forward = in_half(self.model) if plan.compute == "bfloat16" else self.model
            self._packed = self._forward.packs()
            while len(left):
                left = self._until_memory_runs_out(tokens, left, vectors, report)
        return vectors

    def _until_memory_runs_out(
        self, tokens: Tokens, left: np.ndarray, vectors: np.ndarray, report: Report
    ) -> np.ndarray:
        """Fill the rows `left` of `vectors`; return those still to do after a batch that did not fit."""
        is_done = np.zeros(len(left), np.bool_)
        for batch in token_batches(tokens.lengths[left].tolist(), self.budget, packed=self._packed):
            rows = left[batch]
            found = self._try([tokens[row] for row in rows])
            if found is None:
                self._shrink(tokens.lengths[rows])
                break
            vectors[rows] = self.plan.store(found)
            is_done[batch] = True
            report(len(vectors) - len(left) + int(is_done.sum()))
        return left[~is_done]

    def _try(self, batch: list[Tokenized]) -> np.ndarray | None:
        """float32 (texts, dim), or None if memory ran out: by then the failed batch's tensors are gone."""
        try:
            return self._forward(*self.model.collate(batch, packed=self._packed)).cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _shrink(self, lengths: np.ndarray) -> None:
        """Half of what did not fit, which may be less than the budget. Raises UserError for a lone text."""
        device, texts, longest = self.model.device, len(lengths), int(lengths.max())
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if texts == 1:
            raise UserError(
                f"max_length {self.plan.max_length}: a single text of {longest} tokens does not fit into the memory "
                f"of {device}; lower max_length, or take a device with more memory"
            )
        held = int(lengths.sum()) if self._packed else texts * longest
        self.budget = max(1, min(self.budget, held) // 2)
        logger.log(
            logging.INFO if self._has_warned else logging.WARNING,
            "out of memory on %s with %d texts of up to %d tokens: going on with batch_tokens=%d",
            *(device, texts, longest, self.budget),
        )
        self._has_warned = True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator had no more to give: CUDA's, cuBLAS's workspace, the CPU's or Python's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs = ("DefaultCPUAllocator", "not enough memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts in pieces that a tokenizer's output of Python objects stays small for."""
    chunk: list[str] = []
    characters = 0
    for text in texts:
        if chunk and (len(chunk) == CHUNK_TEXTS or characters + len(text) > CHUNK_CHARACTERS):
            yield chunk
            chunk, characters = [], 0
        chunk.append(text)
        characters += len(text)
    if chunk:
        yield chunk


@contextlib.contextmanager
def open_encoder(
    model: NVEmbedModel, plan: Plan, devices: Sequence[str] | None = None, saved: Path | None = None
) -> Iterator[TextEncoder]:
    """The model on its own device, or one process for each of `devices`, ended on leaving.

    `saved`: what `NVEmbedModel.from_pretrained` gives this very model for, which spares writing it for the processes.
    """
    if not devices:
        yield Encoder(model, plan)
        return
    from nvembed.modeling.workers import Workers

    with Workers(model, plan, devices, saved) as workers:
        yield workers


def encode_distinct(encoder: TextEncoder, texts: Sequence[str], report: Report = lambda _: None) -> np.ndarray:
    """Stored vectors of `texts` in their order, equal texts encoded once; `report` hears the count of distinct ones."""
    places: dict[str, int] = {}
    rows = np.fromiter((places.setdefault(text, len(places)) for text in texts), dtype=np.int64, count=len(texts))
    vectors = encoder.encode(list(places), report)
    return vectors if len(places) == len(texts) else vectors[rows]


def encode_texts(
    model: NVEmbedModel,
    texts: Iterable[str],
    *,
    computed: Precision | None = None,
    devices: Sequence[str] | None = None,
    saved: Path | None = None,
    label: str = "encoding",
    **options: Unpack[PlanOptions],
) -> np.ndarray:
    """Vectors of `texts` in their order, rows of norm 1 unless stored smaller (see `plan.PlanOptions`).

    0 texts give 0 rows. `devices` and `saved`: see `open_encoder`. Raises UserError for what is not a string and for
    options that cannot be.
    """
    checked = check_texts(texts)
    plan = make_plan(model, computed=computed, devices=devices, **options)
    if not checked:
        return plan.empty(0)
    progress = Progress(label, len(checked))
    with open_encoder(model, plan, devices, saved) as encoder:
        vectors = encode_distinct(encoder, checked, progress.update)
    progress.update(len(checked))
    return vectors
