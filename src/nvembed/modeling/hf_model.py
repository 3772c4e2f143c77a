"""The model as transformers and Sentence Transformers see it: tokens in, token states behind the pooling's block out.

Sentence Transformers refuses module classes outside its own package, so the block lives inside `last_hidden_state`
and its plain mean pooling does the rest. A prompt is left out of the pool here too: where Sentence Transformers says
how long the prompt is, the states of left-out tokens are zeroed and the others scaled so that the mean over all
attended tokens is the mean over the pooled ones. Which tokens those are follows the text rule, also where the
prompt's last piece merges with the text, which the prompt's length alone does not tell.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from nvembed.modeling.attention import set_attention
from nvembed.modeling.backbone import drop_pooler
from nvembed.modeling.hf_config import NVEmbedConfig
from nvembed.modeling.hf_spec import spec_of
from nvembed.modeling.pooling import AVERAGED


class NVEmbedTextModel(PreTrainedModel):
    """Backbone and the pooling's block; backbone and latent block under the published parameter names."""

    config_class = NVEmbedConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: NVEmbedConfig) -> None:
        super().__init__(config)
        self.spec = spec_of(config, "config.json")
        self.embedding_model = AutoModel.from_config(config.text_config)
        drop_pooler(self.embedding_model)
        set_attention(self.embedding_model, self.spec.attention)
        latent = self.spec.latent
        self.latent_attention_model = latent.build(config.hidden_size) if latent is not None else None
        layer = self.spec.self_attention
        self.self_attention_model = layer.build(config.hidden_size) if layer is not None else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        """Only what a checkpoint does not hold, such as rotary buffers; the block has drawn its own weights."""
        if not list(module.parameters(recurse=False)):
            super()._init_weights(module)

    def get_input_embeddings(self) -> torch.nn.Module:
        """The backbone's."""
        return self.embedding_model.get_input_embeddings()

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        """The backbone's."""
        self.embedding_model.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        prompt_length: Any = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """`last_hidden_state`: (batch, tokens, dim) states behind the pooling's block, where there is one.

        `prompt_length` is what Sentence Transformers counts; None pools everything. `token_type_ids` is taken and
        not used: texts come one by one.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        cache = {"use_cache": False} if hasattr(self.embedding_model.config, "use_cache") else {}
        states = self.embedding_model(input_ids=input_ids, attention_mask=attention_mask, **cache).last_hidden_state
        if self.latent_attention_model is not None:
            states = self.latent_attention_model(states)
        if self.self_attention_model is not None:
            states = self.self_attention_model(states, attention_mask)
        if prompt_length is not None and self.spec.pooling in AVERAGED:
            length = int(prompt_length.flatten()[0]) if isinstance(prompt_length, Tensor) else int(prompt_length)
            states = states * self._weights(input_ids, attention_mask, length).to(states.dtype).unsqueeze(-1)
        return BaseModelOutput(last_hidden_state=states)

    def _weights(self, input_ids: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        """(batch, tokens) weights whose plain mean is the mean over the pooled tokens, whichever side is padded."""
        if length <= 0:
            return torch.ones_like(attention_mask, dtype=torch.float32)
        attended = attention_mask.bool()
        places = attended.long().cumsum(1) - 1  # within the text
        kept = attended & (places >= length)
        kept |= attended & (places == length - 1) & self._straddles(input_ids, attended, length).unsqueeze(1)
        last = attended & (places == attended.sum(1, keepdim=True) - 1)
        kept = torch.where(kept.any(1, keepdim=True), kept, last)
        scale = attended.sum(1, keepdim=True).float() / kept.sum(1, keepdim=True).float()
        return kept.float() * scale

    def _straddles(self, input_ids: Tensor, attended: Tensor, length: int) -> Tensor:
        """(batch,): whether the last token that Sentence Transformers counts to the prompt is pooled all the same.

        In the published layout it always is: its count has no begin token. Otherwise it is if the row begins with
        a prefix of the template's shape, whose last piece by itself is another token than stands here.
        """
        if self.spec.layout == "nv-embed":
            return torch.ones(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        tail = torch.tensor(self.config.prompt_tail or [], device=input_ids.device)
        if len(tail) < 2 or length < len(tail):
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        begins = attended.long().argmax(1, keepdim=True)
        columns = begins + torch.arange(length - len(tail), length, device=input_ids.device)
        found = input_ids.gather(1, columns.clamp(max=input_ids.shape[1] - 1))
        return (found[:, :-1] == tail[:-1]).all(1) & (found[:, -1] != tail[-1])


AutoModel.register(NVEmbedConfig, NVEmbedTextModel, exist_ok=True)
