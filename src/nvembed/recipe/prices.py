"""What an hour costs where the run runs, so that the report can say what a model cost."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nvembed.recipe.base import Section

Price = Annotated[float, Field(ge=0)]


class Prices(Section):
    """A price table. What has no price is counted in hours alone; it changes no result and trains nothing anew."""

    currency: str = "USD"
    cpu_hour: Price | None = Field(None, description="one core, busy for an hour")
    gpu_hour: Price | None = Field(None, description="one GPU, held for an hour")
    kwh: Price | None = Field(None, description="a kilowatt hour, where you pay the machine's power and not its hours")
