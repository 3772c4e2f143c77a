"""Decoders that look both ways: switching the causal mask off, and proof at start-up that it is off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Attention = Literal["bidirectional", "causal"]


def is_decoder(model: PreTrainedModel) -> bool:
    """True for a language model's backbone: an attention module of it says that it is causal, or it was switched."""
    switched = getattr(model.config, "is_causal", None) is False
    return switched or any(getattr(module, "is_causal", False) is True for module in model.modules())


def set_attention(model: PreTrainedModel, attention: Attention) -> None:
    """Make a decoder attend as asked and check that it does; a BERT-style encoder is left as it is.

    Raises RuntimeError if the library in use does not do what was asked: training on would give a wrong model.
    """
    if not is_decoder(model):
        return
    switched = getattr(model.config, "is_causal", None) is False
    if switched or attention == "bidirectional":
        _switch(model, causal=attention == "causal")
    if not next(model.parameters()).is_meta:
        check_attention(model, attention)


def _switch(model: PreTrainedModel, *, causal: bool) -> None:
    """Put the causal mask off or on, in the configuration too, so that a model built from it is alike.

    A sliding window goes with the mask where all layers share it: the published model does not apply Mistral's.
    Where only some layers have one (Gemma), it belongs to the design, with a rotary base of its own, and stays.
    """
    config: Any = model.config
    config.is_causal = causal
    drop_window = not causal and "sliding_attention" not in (getattr(config, "layer_types", None) or [])
    if drop_window and getattr(config, "sliding_window", None) is not None:
        config.sliding_window = None
    module: Any
    for module in model.modules():
        if getattr(module, "is_causal", None) is (not causal):
            module.is_causal = causal
        if drop_window and getattr(module, "sliding_window", None) is not None:
            module.sliding_window = None


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
