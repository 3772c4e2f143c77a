"""Our model as a model of mteb's: the task's instruction on queries, on both sides where the task is symmetric.

An untrained backbone is wrapped the same way but read as its own card says: no instruction, the card's prefixes.
Equal texts under an equal instruction are encoded once, however many tasks and splits share them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.models.model_meta import ModelMeta

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import PromptType
    from torch import Tensor
    from torch.utils.data import DataLoader

EncodeTexts = Callable[[list[str], str], np.ndarray]
"""(texts, instruction) -> float32 (n, dim), rows of norm 1, in the order of the texts."""


class MTEBEncoder:
    """An encoder in mteb's sense (its `EncoderProtocol`).

    Args:
        encode_texts: what turns texts and an instruction into vectors.
        name, revision: what mteb calls the model.
        instructions: whether the model was taught instructions; if not it gets none.
        query_prefix, document_prefix: what a card puts before a text. Symmetric tasks take the query's, as cards do.

    Attributes:
        own_instructions: query → its own task sentence in place of the task's, as a mix of tasks has them.
    """

    def __init__(
        self,
        encode_texts: EncodeTexts,
        *,
        name: str,
        revision: str = "local",
        instructions: bool = True,
        query_prefix: str = "",
        document_prefix: str = "",
    ) -> None:
        self._encode_texts, self._instructions = encode_texts, instructions
        self._prefixes = {"query": query_prefix, "document": document_prefix}
        self.own_instructions: Mapping[str, str] = {}
        self._vectors: dict[tuple[str, str], np.ndarray] = {}
        self._meta = ModelMeta.create_empty({"name": f"nvembed/{name}", "revision": revision})
        self.texts_encoded = 0
        self.seconds = 0.0

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Name and revision, as mteb wants them."""
        return self._meta

    def encode(
        self,
        inputs: DataLoader[Any],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Vectors of a loader's texts: float32 (n, dim), rows of norm 1."""
        side = "document" if prompt_type is not None and prompt_type.value == "document" else "query"
        told = instruction_of(task_metadata, side) if self._instructions else ""
        own = self.own_instructions if self._instructions and side == "query" else {}
        texts = [(own.get(text, told), self._prefixes[side] + text) for batch in inputs for text in batch["text"]]
        missing: dict[str, list[str]] = {}
        for instruction, text in dict.fromkeys(texts):
            if (instruction, text) not in self._vectors:
                missing.setdefault(instruction, []).append(text)
        for instruction, new in missing.items():
            started = time.monotonic()
            vectors = self._encode_texts(new, instruction)
            self.seconds += time.monotonic() - started
            self.texts_encoded += len(new)
            self._vectors.update({(instruction, text): row for text, row in zip(new, vectors, strict=True)})
        return np.stack([self._vectors[key] for key in texts])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of all pairs, (n1, n2); rows have norm 1, so the product is the cosine."""
        import torch

        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of rows with equal index, (n,)."""
        import torch

        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(dim=1)


def instruction_of(task_metadata: TaskMetadata, side: str) -> str:
    """The task's instruction for a side, "query" or "document".

    A single prompt belongs to queries, and to every text of a task without sides.
    """
    prompt = task_metadata.prompt
    if prompt is None:
        return ""
    if isinstance(prompt, str):
        return prompt if side == "query" else ""
    return str(prompt.get(side) or "")  # type: ignore[call-overload]
