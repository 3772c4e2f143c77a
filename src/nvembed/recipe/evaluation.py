"""What is measured, on what, and how sure one wants to be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nvembed.recipe.base import Positive, Section


class Evaluation(Section):
    """What is measured, and how sure one wants to be."""

    candidates: list[Literal["bm25", "base", "stage1", "stage2"]] = Field(["bm25", "base", "stage1", "stage2"])
    splits: list[Literal["dev", "test"]] = Field(["dev", "test"])
    bootstrap_samples: Positive = 2000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    batch_tokens: Positive = 16384
    seed: int = 17
