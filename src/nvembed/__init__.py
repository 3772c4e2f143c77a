"""NV-Embed, trainable: turn a decoder-only language model into a general text embedder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nvembed.modeling import autoload

__version__ = "0.1.0"
__all__ = ["NVEmbedModel", "__version__"]

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel


def __getattr__(name: str) -> Any:
    """Import the model on first use: `import nvembed` alone stays quick."""
    if name == "NVEmbedModel":
        from nvembed.modeling import NVEmbedModel

        return NVEmbedModel
    raise AttributeError(f"module 'nvembed' has no attribute {name!r}")


autoload.install()
