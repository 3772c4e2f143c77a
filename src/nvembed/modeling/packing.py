"""Texts laid end to end without padding: how a backbone is made to take them, and whether it does so rightly.

The backbone's own layers stay as they are; its attention function is replaced (`packed_attention`). Positions restart
with each text. That alone would not do: a model that looks both ways would see its neighbours
(docs/decisions/packing.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nvembed.modeling.checks import text_config
from nvembed.modeling.packed_attention import HALF, NAME, Packed, compute_dtype, kernel_takes, packing, register

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def use_packed_attention(backbone: PreTrainedModel) -> None:
    """Put our attention function in the place of `sdpa` (or of what stands for it where scores are capped).

    Nothing of it is written into a saved configuration. Other attention, or a model that does not let its attention
    be chosen, is left as it is: such a model takes padded batches only.
    """
    register()
    present = getattr(backbone.config, "_attn_implementation", None)
    capped = getattr(text_config(backbone.config), "attn_logit_softcapping", None) is not None
    replaceable = present == "sdpa" or (present == "eager" and capped)
    if replaceable and backbone._can_set_attn_implementation():
        backbone.set_attn_implementation(NAME)


def is_used(backbone: PreTrainedModel) -> bool:
    """Whether a backbone's attention goes through ours."""
    return getattr(backbone.config, "_attn_implementation", None) == NAME


def positions(backbone: PreTrainedModel, input_ids: Tensor, packed: Packed) -> Tensor:
    """(tokens,) int64: positions that restart with each text.

    Roberta and its kin count from the padding index on, and leave out tokens that are the pad token.
    """
    sizes = torch.tensor(packed.lengths, device=input_ids.device)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes, output_size=len(input_ids))
    places = torch.arange(len(input_ids), device=input_ids.device)
    embeddings = getattr(backbone, "embeddings", None)
    if not hasattr(embeddings, "create_position_ids_from_input_ids"):
        return places - starts
    pad = int(embeddings.padding_idx)  # type: ignore[union-attr,arg-type]
    counted = (input_ids != pad).long()
    before = torch.nn.functional.pad(counted.cumsum(0), (1, 0))
    return (before[1:] - before[starts]) * counted + pad


def run_packed(backbone: PreTrainedModel, input_ids: Tensor, packed: Packed) -> Tensor:
    """Token states (tokens, dim) of a packed batch, `input_ids` (tokens,) on the backbone's device.

    Raises RuntimeError if the backbone's attention is not ours, or is not told of the packing.
    """
    if not is_used(backbone):
        implementation = getattr(backbone.config, "_attn_implementation", None)
        raise RuntimeError(f"{type(backbone).__name__} cannot take packed texts with attention {implementation!r}")
    rows = input_ids.unsqueeze(0)
    cache = {"use_cache": False} if hasattr(backbone.config, "use_cache") else {}
    with packing(packed):
        # a mask of ones: without one, transformers would look for texts in the positions itself
        hidden = backbone(
            input_ids=rows,
            attention_mask=torch.ones_like(rows),
            position_ids=positions(backbone, input_ids, packed).unsqueeze(0),
            nvembed_packed=packed,
            **cache,
        )
    return hidden.last_hidden_state[0]


def pays(backbone: PreTrainedModel) -> bool:
    """Whether packed texts are faster than padded ones, as things stand: where one kernel call serves a whole batch."""
    weight = next(backbone.parameters())
    if not weight.is_cuda or compute_dtype(weight) not in HALF or not is_used(backbone):
        return False
    config = text_config(backbone.config)
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return False
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return kernel_takes(int(head), weight.device)


@torch.no_grad()
def obstacle(backbone: PreTrainedModel) -> str | None:
    """Why a backbone cannot take packed texts; None if it can. Found by trying, in the state it is in (eval mode).

    A text beside another must come out as in a padded batch, and must not move when its neighbour changes. What
    mixes tokens outside its attention, or makes up positions of its own, does not pass.
    """
    if not is_used(backbone):
        return "its attention cannot be replaced"
    config = text_config(backbone.config)
    known = [token for token in range(config.vocab_size) if token != getattr(config, "pad_token_id", None)]
    one, other, kept = ([known[i % len(known)] for i in range(first, first + 5)] for first in (1, 9, 17))
    device = next(backbone.parameters()).device
    packed = Packed.of(torch.tensor([5, 3]), device)
    try:
        first, second = (
            run_packed(backbone, torch.tensor([*text, *kept[:3]], device=device), packed) for text in (one, other)
        )
        mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]], device=device)
        padded = backbone(input_ids=torch.tensor([one, kept], device=device), attention_mask=mask).last_hidden_state
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    if _apart(first[5:], second[5:]) > 1e-3:
        return "a text moves with its neighbour"
    if _apart(first, padded[mask.bool()]) > (0.1 if compute_dtype(first) in HALF else 1e-3):
        return "a packed text differs from a padded one"
    return None


def _apart(one: Tensor, other: Tensor) -> float:
    """Relative distance of two sets of states."""
    return float((one.float() - other.float()).norm() / other.float().norm().clamp(min=1e-20))
