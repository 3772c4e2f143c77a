"""Losses, gradient cache, the DeepSpeed loop and its checkpoints; `train_stage` runs one stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvembed.training.stage import train_stage

__all__ = ["train_stage"]


def __getattr__(name: str) -> Any:
    """Import on first use: a rank needs less than the one who starts it."""
    if name == "train_stage":
        from nvembed.training.stage import train_stage

        return train_stage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
