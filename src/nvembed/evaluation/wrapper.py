"""Our model as a model of mteb's: the task's instruction on queries, on both sides where the task is symmetric.

An untrained backbone is wrapped the same way but read as its own card says: no instruction, the card's prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.models.model_meta import ModelMeta

from nvembed.evaluation.instructions import Instruction, prompt_of
from nvembed.evaluation.vectors import EncodeTexts, Vectors

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import PromptType
    from torch import Tensor
    from torch.utils.data import DataLoader


class MTEBEncoder:
    """An encoder in mteb's sense (its `EncoderProtocol`).

    Args:
        encode_texts: what turns texts and an instruction into vectors.
        name, revision: what mteb calls the model.
        instructions: whether the model was taught instructions; if not it gets none.
        query_prefix, document_prefix: what a card puts before a text. Symmetric tasks take the query's, as cards do.
        made_by, most_bytes: as of `Vectors`.

    Attributes:
        vectors: what encodes, and how much it did.
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
        made_by: dict[str, Any] | None = None,
        most_bytes: float = 0,
    ) -> None:
        self._instructions = instructions
        self._prefixes = {"query": query_prefix, "document": document_prefix}
        self._told: Instruction | None = None
        self.own_instructions: Mapping[str, str] = {}
        self.vectors = Vectors(encode_texts, made_by=made_by, most_bytes=most_bytes)
        self._meta = ModelMeta.create_empty({"name": f"nvembed/{name}", "revision": revision})

    def begin_task(self, told: Instruction | None = None, own: Mapping[str, str] | None = None) -> None:
        """A new task begins; `told` are its sentences, None: what its metadata says. `own`: `own_instructions`."""
        self._told, self.own_instructions = told, own or {}
        self.vectors.begin_task()

    @property
    def texts_encoded(self) -> int:
        """How many texts were encoded so far."""
        return self.vectors.texts_encoded

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
        texts = [text for batch in inputs for text in batch["text"]]
        prefixed = [self._prefixes[side] + text for text in texts]
        told = self._sentence(task_metadata, side)
        if not (self.own_instructions and self._instructions and side == "query"):
            return self.vectors.of(prefixed, told)
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(self.own_instructions.get(text, told), []).append(row)
        parts = {one: self.vectors.of([prefixed[row] for row in here], one) for one, here in rows.items()}
        found = np.empty((len(texts), next(iter(parts.values())).shape[1]), np.float32)
        for one, here in rows.items():
            found[here] = parts[one]
        return found

    def _sentence(self, task_metadata: TaskMetadata, side: str) -> str:
        if not self._instructions:
            return ""
        return prompt_of(task_metadata, side) if self._told is None else getattr(self._told, side)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of all pairs, (n1, n2); rows have norm 1, so the product is the cosine."""
        import torch

        one, other = torch.as_tensor(embeddings1), torch.as_tensor(embeddings2)
        return one @ (other.T if other.ndim == 2 else other)  # of one vector there is nothing to turn

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of rows with equal index, (n,)."""
        import torch

        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(dim=1)
