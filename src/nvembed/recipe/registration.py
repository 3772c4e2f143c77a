"""Under which name a model is registered, and the gate it must pass."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nvembed.recipe.base import Section
from nvembed.recipe.prices import Prices

Limit = Annotated[float, Field(gt=0)]


class Limits(Section):
    """What a model may cost to serve, as measured while it is evaluated; none given: not asked."""

    query_ms: Limit | None = Field(None, description="milliseconds for one short query, at the 95th percentile")
    documents_per_second: Limit | None = Field(None, description="at least so many passages of 100 words")
    parameters: Limit | None = Field(None, description="at most so many")
    size_mb: Limit | None = Field(None, description="megabytes of weights, at most")


class Registration(Section):
    """Under which name the model is registered and what makes it champion."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "nvembed"
    gate_task: Annotated[str, Field(min_length=1)] = Field(
        "retrieval",
        description="what must be better: a task, `mean` (of all tasks) or `mean:Retrieval` (of a type of mteb's)",
    )
    min_gain: float = Field(0.0, description="the lower end of the paired interval must be above this")
    guard_margin: Annotated[float, Field(ge=0)] = Field(0.02, description="no guard task may lose more than this")
    guard_tasks: list[str] | None = Field(
        None, description="tasks that may not lose; none given: all but the gate's own; []: none"
    )
    limits: Limits = Limits()
    prices: Prices | None = Field(None, description="what hours cost, for the report")

    @property
    def gate_type(self) -> str | None:
        """Of `mean:Retrieval` the type, of `mean` an empty word, of a task None."""
        word, _, kind = self.gate_task.partition(":")
        return kind if word == "mean" else None
