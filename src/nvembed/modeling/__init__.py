"""Backbone, latent attention block, poolings, LoRA, `NVEmbedModel` and the checkpoint formats.

Everything is imported on first use: torch and transformers are slow to import, and `import nvembed` must not be.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvembed.modeling.batching import resolve_precision
    from nvembed.modeling.checks import backbone_digest, check_section
    from nvembed.modeling.latent import LatentAttention
    from nvembed.modeling.model import NVEmbedModel

_HOMES = {
    "NVEmbedModel": "nvembed.modeling.model",
    "LatentAttention": "nvembed.modeling.latent",
    "backbone_digest": "nvembed.modeling.checks",
    "check_section": "nvembed.modeling.checks",
    "resolve_precision": "nvembed.modeling.batching",
}
__all__ = ["LatentAttention", "NVEmbedModel", "backbone_digest", "check_section", "resolve_precision"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nvembed.modeling' has no attribute {name!r}")
