"""Which examples a stage's batches are made of. The formulas stand in `nvembed.data.mixture`.

Every default leaves the paper's batches: all examples of the stage's task types in one shuffle an epoch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nvembed.recipe.base import Positive, Section

Share = Annotated[float, Field(ge=0)]


class Batches(Section):
    """How a stage's batches are drawn. A dataset is what the examples of one task from one source make.

    In `weights` and `caps` a dataset goes by its task's name, or by its source's where its task is not named.
    """

    mode: Literal["blended", "one-dataset"] = Field(
        "blended", description="blended: a batch is drawn from all datasets (the paper); one-dataset: from one of them"
    )
    weights: dict[str, Share] = Field(
        {}, description="task or source: how many times its share of an epoch; above 1 it repeats, 0 leaves it out"
    )
    caps: dict[str, Positive] = Field(
        {}, description="task or source: how many examples of it an epoch holds at most; each epoch draws others"
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        1.0, description="datasets come up in proportion to size^(1/temperature): 1 by size, larger is more even"
    )
    distinct_texts: bool = Field(
        False, description="keep examples with a query or positive in common out of one batch, where it can be done"
    )
    group_by_length: bool = Field(
        False,
        description="batches of examples of like length, which spares padding; a query's in-batch negatives are then "
        "of its example's length too, which makes them easier to tell or harder than chance would",
    )
