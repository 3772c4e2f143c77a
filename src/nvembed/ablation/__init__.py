"""Variants of one recipe, trained at one budget and judged alike: which choice is better, worse, or not resolved.

A *cell* is one variant trained with one learning-rate factor and one seed. The first seed's cells, one for each factor,
are measured on dev, and dev alone picks the factor; the picked factor's cells, one for each seed, are measured on test.
No other cell ever meets the test set. A cell is a piece of state named by all that decides its numbers, so what two
families share is trained once, and an ablation that was killed does only what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Runner", "make_plan"]

if TYPE_CHECKING:
    from nvembed.ablation.plan import make_plan
    from nvembed.ablation.running import Runner


def __getattr__(name: str) -> Any:
    """Import on first use."""
    if name == "make_plan":
        from nvembed.ablation.plan import make_plan

        return make_plan
    if name == "Runner":
        from nvembed.ablation.running import Runner

        return Runner
    raise AttributeError(f"module 'nvembed.ablation' has no attribute {name!r}")
