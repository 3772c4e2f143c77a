"""What a stage's loss compares and how it weighs it. The formulas stand in `nvembed.training.losses`.

Every default leaves plain InfoNCE: own positive, own hard negatives, every other example's positive and hard negatives,
all of weight 1.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nvembed.recipe.base import Positive, Section, Weight


class InBatch(Section):
    """In-batch negatives: other examples' documents in a query's denominator, over all ranks."""

    enabled: bool = Field(True, description="compare a query with every other example's documents too")
    on_for: list[str] = Field([], description="tasks or task types whose queries have them although `enabled` is false")
    off_for: list[str] = Field([], description="tasks or task types whose queries have none although `enabled` is true")
    others_hard_negatives: bool = Field(
        True, description="the others' documents are their positives and hard negatives; false: their positives alone"
    )
    weight: Weight = Field(1.0, description="what each of them counts in the denominator")

    @model_validator(mode="after")
    def _a_task_is_on_or_off(self) -> InBatch:
        if both := sorted({*self.on_for} & {*self.off_for}):
            raise ValueError(f"{', '.join(both)}: in both on_for and off_for; keep one")
        return self


class FalseNegatives(Section):
    """Which negatives are left out since they may well be right answers.

    A document with the text of an own positive is left out in any case.
    """

    same_class: bool = Field(
        False,
        description="classification and clustering: leave out what is known to be of the query's class, because "
        "query-positive pairs of the dataset link them; where the positive is the label's text, that is the whole "
        "class, otherwise most of its pairs",
    )
    margin: Annotated[float, Field(ge=0)] | None = Field(
        None, description="leave out a negative whose cosine exceeds the positive's by more (Qwen3 Embedding: 0.1)"
    )


class Hardness(Section):
    """Weights that grow with a negative's similarity: exp(strength · cosine)."""

    strength: Annotated[float, Field(ge=0)] = Field(0.0, description="0: off; EmbeddingGemma: 5, of: hard")
    of: Literal["all", "hard", "in-batch"] = Field(
        "all", description="which negatives: all, own hard ones, the others'"
    )


class Matryoshka(Section):
    """Vectors that may be cut short: the loss of their first entries, made unit length again, is added."""

    dims: list[Positive] = Field([], description="lengths trained beside the whole vector, whose weight is 1")
    weights: list[Weight] = Field([], description="one for each of dims; none given: 1 each")

    @model_validator(mode="after")
    def _one_weight_a_length(self) -> Matryoshka:
        if len(set(self.dims)) < len(self.dims):
            raise ValueError("dims names a length twice; name each once")
        if self.weights and len(self.weights) != len(self.dims):
            raise ValueError(f"{len(self.dims)} dims but {len(self.weights)} weights; give one each, or no weights")
        return self


class Distillation(Section):
    """A teacher's scores of the own positive and hard negatives as a second target; mining keeps its teacher's."""

    weight: Annotated[float, Field(ge=0)] = Field(0.0, description="of the divergence beside InfoNCE; 0: off")
    teacher_temperature: Weight | None = Field(
        None, description="divides the teacher's scores; none: the stage's temperature, which divides the cosines"
    )
