"""What is better, and how sure one is: local sets as MTEB tasks, BM25, paired bootstrap, the report and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["compare", "evaluate", "evaluate_model"]

if TYPE_CHECKING:
    from nvembed.evaluation.comparison import compare
    from nvembed.evaluation.running import evaluate, evaluate_model


def __getattr__(name: str) -> Any:
    """Import on first use: neither half needs what the other imports."""
    if name in ("evaluate", "evaluate_model"):
        from nvembed.evaluation import running

        return getattr(running, name)
    if name == "compare":
        from nvembed.evaluation.comparison import compare

        return compare
    raise AttributeError(f"module 'nvembed.evaluation' has no attribute {name!r}")
