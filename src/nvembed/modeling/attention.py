"""Decoders that look both ways: switching the causal mask off, and proof at start-up that it is off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Attention = Literal["bidirectional", "causal"]


def is_decoder(model: PreTrainedModel) -> bool:
    """True for a causal language model's backbone: some attention module of it says that it is causal."""
    return any(getattr(module, "is_causal", False) is True for module in model.modules())


def set_attention(model: PreTrainedModel, attention: Attention) -> None:
    """Make a decoder attend as asked and check that it does; a BERT-style encoder is left as it is.

    Raises RuntimeError if the library in use does not do what was asked: training on would give a wrong model.
    """
    if not is_decoder(model):
        return
    if attention == "bidirectional":
        set_bidirectional(model.config)
        for module in model.modules():
            if getattr(module, "is_causal", None) is True:
                setattr(module, "is_causal", False)  # noqa: B010 - a plain attribute that Module's types do not know
            # a layer's own window would cut what it sees even without a causal mask
            if getattr(module, "sliding_window", None) is not None:
                setattr(module, "sliding_window", None)  # noqa: B010
    if not next(model.parameters()).is_meta:
        check_attention(model, attention)


def set_bidirectional(config: PretrainedConfig) -> None:
    """Full attention in a configuration, so that a model built from it is bidirectional from the start."""
    config.is_causal = False
    if getattr(config, "sliding_window", None) is not None:
        config.sliding_window = None
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"] * len(config.layer_types)


@torch.no_grad()
def check_attention(model: PreTrainedModel, attention: Attention) -> None:
    """Change the last of eight tokens and look at position 0: it must move if bidirectional, and must not if causal."""
    was_training = model.training
    model.eval()
    vocabulary = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr,index]
    ids = torch.arange(8, device=next(model.parameters()).device).unsqueeze(0) % max(vocabulary - 1, 1)
    other = ids.clone()
    other[0, -1] += 1
    mask = torch.ones_like(ids)
    states = [
        model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state[0, 0].float()
        for tokens in (ids, other)
    ]
    model.train(was_training)
    moved = (states[0] - states[1]).abs().max().item() > 0
    if moved != (attention == "bidirectional"):
        state = "sees" if moved else "does not see"
        raise RuntimeError(
            f"{type(model).__name__}: attention should be {attention}, but position 0 {state} the last token; "
            "this release of transformers treats config.is_causal otherwise"
        )
