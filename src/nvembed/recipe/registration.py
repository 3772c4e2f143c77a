"""Under which name a model is registered, and the gate it must pass."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nvembed.recipe.base import Section
from nvembed.recipe.prices import Prices


class Registration(Section):
    """Under which name the model is registered and what makes it champion."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "nvembed"
    gate_task: str = "retrieval"
    min_gain: float = Field(0.0, description="the lower end of the paired interval must be above this")
    guard_margin: Annotated[float, Field(ge=0)] = Field(0.02, description="no other task may lose more than this")
    prices: Prices | None = Field(None, description="what hours cost, for the report")
