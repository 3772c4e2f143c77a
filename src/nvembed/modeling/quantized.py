"""A frozen backbone in 4 bits while adapters on it are trained (QLoRA, arXiv 2305.14314), by bitsandbytes.

Only training sees it: `NVEmbedModel.from_section(…, trainable=True)`. What is evaluated, merged and registered is the
adapter on the original weights, which the section and the backbone's digest name; nothing of 4 bits is ever stored.
Quantised are the backbone's linear layers (NormalFloat, double quantisation), not its embeddings and norms and nothing
of the pooling's block.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

import torch

from nvembed.core.errors import UserError

BLOCKS = ["latent_attention_model", "self_attention_model"]


def check_quantization() -> None:
    """Raise UserError where bitsandbytes is not installed. It is not imported: that takes seconds."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "model.quantization is nf4, but bitsandbytes is not installed; pip install 'nvembed[quant]', or set "
            "model.quantization=none"
        )


def four_bit_options(dtype: torch.dtype, device: str | torch.device) -> dict[str, Any]:
    """What transformers' `from_pretrained` needs to load a model in 4 bits onto `device`, tensor by tensor.

    `dtype` is that of the products, and of what is not quantised. Raises UserError if bitsandbytes cannot be used.
    """
    check_quantization()
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401 - it may be there but not fit this machine
    except (ImportError, OSError, RuntimeError) as error:
        version = importlib.metadata.version("bitsandbytes")
        raise UserError(
            f"model.quantization is nf4, but bitsandbytes {version} cannot be used here ({error}); "
            "set model.quantization=none"
        ) from error
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=BLOCKS,
    )
    return {"quantization_config": config, "device_map": {"": torch.device(device)}}


def keep_layout(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from laying out weights anew.

    On a CPU it does so at the first pass in eval mode, for inference and in blocks of 64 columns; training then reads
    them wrongly.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
