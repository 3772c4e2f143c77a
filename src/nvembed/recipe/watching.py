"""What is watched while a stage trains, and what is done about it: a check on dev, and steps that go wrong."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nvembed.recipe.base import Positive, Section


class DevCheck(Section):
    """A small retrieval check on the dev split while training: nDCG@10 of some of its queries."""

    every: Annotated[int, Field(ge=0)] = Field(0, description="steps between checks, the last step too; 0: none")
    queries: Positive = Field(100, description="dev queries asked, at most; drawn once")
    documents: Positive = Field(300, description="dev documents searched, at most, the queries' relevant ones first")
    keep_best: bool = Field(False, description="the stage gives the weights of its best check, not of its last step")
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="the stage ends after so many checks in a row without gain and gives its best; 0: never"
    )
    min_gain: Annotated[float, Field(ge=0)] = Field(0.0, description="nDCG@10 above the best that counts as a gain")
    seed: int = 17

    @model_validator(mode="after")
    def _a_best_needs_checks(self) -> DevCheck:
        if (self.keep_best or self.patience) and not self.every:
            raise ValueError("keep_best and patience need checks; set every to the steps between them")
        return self


class BadSteps(Section):
    """Steps that would spoil the weights: a loss or gradient that is no number, or a loss far above its like."""

    policy: Literal["stop", "skip"] = Field("stop", description="stop the run, or leave the step out and go on")
    spike_factor: Annotated[float, Field(gt=1)] | None = Field(
        None, description="a loss above so many times the median of the last steps is bad; none: spikes are taken"
    )
    spike_window: Positive = Field(20, description="steps whose median that is; before there are so many none is bad")
    max_in_a_row: Positive = Field(5, description="skips in a row after which the run stops all the same")
