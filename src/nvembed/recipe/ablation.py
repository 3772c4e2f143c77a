"""What `nvembed ablate` compares: families of variants, each a few changes of the recipe that the section stands in."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from nvembed.recipe.base import Positive, Section, Weight

StageName = Literal["stage1", "stage2"]
CHANGEABLE = ("model", "mining", "stage1", "stage2")
"""Data, evaluation and resources are the same for all that is compared."""


class Variant(Section):
    """One way to do it."""

    label: str = Field("", description="how reports call it; its name if empty")
    changes: dict[str, Any] = Field({}, description="`section.key: value`, on top of the family's changes")
    stages: list[StageName] | None = Field(
        None, description="stages in the order of their training; none: the family's"
    )
    paper: float | None = Field(None, description="what the paper measured for it: mean over MTEB's 56 tasks")

    @field_validator("changes")
    @classmethod
    def _changes_are_of_the_model(cls, changes: dict[str, Any]) -> dict[str, Any]:
        return _check_changes(changes)


class Family(Section):
    """Variants that are compared with one of them, the baseline, at one budget."""

    question: str = Field(description="what the comparison is to tell")
    baseline: str = Field(description="the variant that the others are compared with")
    stages: list[StageName] = Field(["stage1", "stage2"], description="stages in the order of their training")
    changes: dict[str, Any] = Field({}, description="`section.key: value`, for all its variants")
    variants: dict[str, Variant] = Field(description="by name; the baseline among them")

    @field_validator("changes")
    @classmethod
    def _changes_are_of_the_model(cls, changes: dict[str, Any]) -> dict[str, Any]:
        return _check_changes(changes)

    @model_validator(mode="after")
    def _there_is_something_to_compare(self) -> Family:
        if len(self.variants) < 2:
            raise ValueError("a comparison needs two variants or more")
        if self.baseline not in self.variants:
            near = difflib.get_close_matches(self.baseline, list(self.variants), n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"baseline {self.baseline!r} is no variant{hint}; known: {', '.join(self.variants)}")
        for name in self.variants:
            stages = self.stages_of(name)
            if not stages or len(set(stages)) < len(stages):
                raise ValueError(f"variant {name!r}: stages are {stages}; name one or both, each once")
        return self

    def stages_of(self, variant: str) -> list[StageName]:
        """A variant's stages in the order of their training."""
        own = self.variants[variant].stages
        return self.stages if own is None else own


class Ablation(Section):
    """Comparisons at one budget each: rates picked on dev with the first seed, judged on test with all of them."""

    seeds: list[int] = Field([1, 2, 3], description="each gives order of the data and new weights; never the split")
    learning_rate_factors: list[Weight] = Field(
        [0.5, 1.0, 2.0], description="the grid: all learning rates of a variant are multiplied by each of these"
    )
    at_once: Positive | None = Field(
        None, description="cells trained side by side; none: one for each core of a CPU, one on a GPU"
    )
    families: dict[str, Family]

    @model_validator(mode="after")
    def _enough_of_everything(self) -> Ablation:
        if len(set(self.seeds)) < len(self.seeds) or len(set(self.learning_rate_factors)) < len(
            self.learning_rate_factors
        ):
            raise ValueError("seeds and learning_rate_factors: give each value once")
        if len(self.seeds) < 2:
            raise ValueError(
                f"seeds: {len(self.seeds)} given; one run cannot tell a variant from its luck, give two or more"
            )
        if not self.learning_rate_factors:
            raise ValueError("learning_rate_factors is empty: nothing would be trained; give [1.0] for no search")
        if not self.families:
            raise ValueError("families is empty: there is nothing to compare")
        return self


def _check_changes(changes: dict[str, Any]) -> dict[str, Any]:
    for key in changes:
        section, _, rest = key.partition(".")
        if section not in CHANGEABLE or not rest:
            raise ValueError(f"change {key!r}: write section.key of {', '.join(CHANGEABLE)}; the rest is held equal")
        if rest == "seed":
            raise ValueError(f"change {key!r}: seeds are ablation.seeds, the same for all variants")
    return changes
