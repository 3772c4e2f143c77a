"""What an embedding model computes: tokens through a backbone and a pooling to vectors, padded or packed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from nvembed.modeling import batching, packing
from nvembed.modeling.checks import hidden_size
from nvembed.modeling.latent import LatentAttention
from nvembed.modeling.pooling import pool, pool_packed
from nvembed.modeling.self_attention import SelfAttention
from nvembed.modeling.spec import Spec
from nvembed.text import TextRule, Tokenized

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


class Embedder(nn.Module):
    """A backbone, a pooling (latent attention block or a simpler one) and the text rule, as one thing.

    Attributes:
        backbone: the transformers model, adapters put in place.
        latent: the latent attention block, or None for other poolings.
        self_attention: the layer of self-attention pooling, or None for other poolings.
        spec: pooling, attention, template and the like.
        rule: the text rule.
        dim: width of the vectors.
        trained_names: the parameters that training moves.
        origin: backbone name and digest, where known.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        spec: Spec,
        latent: LatentAttention | None = None,
        self_attention: SelfAttention | None = None,
    ) -> None:
        super().__init__()
        packing.use_packed_attention(backbone)
        self.backbone = backbone
        self.latent = latent
        self.self_attention = self_attention
        self.spec = spec
        self.rule = TextRule(tokenizer, spec.template, spec.layout, spec.append_eos)
        self.dim = hidden_size(backbone.config)
        self.trained_names: frozenset[str] = frozenset()
        self.origin: dict[str, str] = {}
        self._obstacle: dict[str, str | None] = {}  # to packing texts, once tried; shared by shallow copies
        self.half_backbone: tuple[Any, PreTrainedModel] | None = None  # `replica.in_half` keeps it here, no sub-module

    def train(self, mode: bool = True) -> Self:
        """Also forgets the bf16 copy: optimisers may write weights in ways that leave no trace."""
        if mode:
            self.half_backbone = None
        return super().train(mode)

    @property
    def device(self) -> torch.device:
        """Where the backbone lies."""
        return next(self.backbone.parameters()).device

    @property
    def pad_token_id(self) -> int:
        """The token that fills batches."""
        return int(self.rule.tokenizer.pad_token_id)

    @property
    def precision(self) -> Literal["auto", "float32", "bfloat16"]:
        """The precision that the model's section asks for."""
        return self.spec.precision

    @property
    def max_length(self) -> int:
        """Tokens after which a text is cut, unless a caller says otherwise."""
        return self.spec.max_length

    def tokenize(self, texts: Iterable[str], instruction: str = "", max_length: int | None = None) -> list[Tokenized]:
        """Tokens and pool masks by the model's text rule."""
        return self.rule.tokenize(texts, instruction, self.max_length if max_length is None else max_length)

    def packs(self, precision: Literal["float32", "bfloat16"] | None = None, *, training: bool = False) -> bool:
        """Whether batches are packed rather than padded, computing in `precision` (None: as things stand now).

        They are on a GPU in half precision, and on a CPU in training, if the backbone takes packed texts: that is
        tried once.
        """
        on_cpu = training and self.device.type == "cpu" and packing.is_used(self.backbone)
        if not on_cpu and self.device.type != "cuda":
            return False
        with batching.autocast(precision or "float32", self.device):
            if not on_cpu and not packing.pays(self.backbone):
                return False
            if not self._obstacle:
                name = type(self.backbone).__name__
                with batching.evaluating(self.backbone):
                    self._obstacle[name] = packing.obstacle(self.backbone)
                if self._obstacle[name]:
                    logger.warning("%s: texts are padded, not packed: %s", name, self._obstacle[name])
        return not any(self._obstacle.values())

    def collate(self, batch: Sequence[Tokenized], *, packed: bool | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` takes, in either form; `packed` None: as `packs` says."""
        if self.packs() if packed is None else packed:
            return batching.pack(batch)
        return batching.collate(batch, self.pad_token_id)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """Vectors (texts, dim), float32, norm 1.

        Either of texts padded on the right: `input_ids`, `attention_mask` and `pool_mask` (texts, longest). Or of
        packed ones: `input_ids` (tokens,), their `lengths` (texts,) in the place of the mask, `pool_mask` (tokens,).
        """
        device = self.device
        attention_mask, pool_mask = attention_mask.to(device), pool_mask.to(device).bool()
        packed = input_ids.ndim == 1
        if packed:
            states = packing.run_packed(self.backbone, input_ids.to(device), packing.Packed.of(attention_mask, device))
            chosen = pool_mask
        else:
            hidden = self.backbone(input_ids=input_ids.to(device), attention_mask=attention_mask, **self._no_cache)
            states = hidden.last_hidden_state
            chosen = pool_mask & attention_mask.bool()
        if self.latent is not None:
            states = self._through_block(states, chosen)
        if self.self_attention is not None:
            through = self.self_attention.forward_packed if packed else self.self_attention
            states = through(states, attention_mask)
        to_vectors = pool_packed if packed else pool
        with torch.autocast(device.type, enabled=False):
            return functional.normalize(to_vectors(states, attention_mask, pool_mask, self.spec.pooling), dim=-1)

    @property
    def _no_cache(self) -> dict[str, bool]:
        return {"use_cache": False} if hasattr(self.backbone.config, "use_cache") else {}

    def _through_block(self, states: Tensor, chosen: Tensor) -> Tensor:
        """The block on the pooled tokens only: it treats tokens one by one, and the others are not used."""
        assert self.latent is not None
        rows = self.latent(states[chosen])
        return torch.zeros_like(states, dtype=rows.dtype).masked_scatter(chosen.unsqueeze(-1), rows)
