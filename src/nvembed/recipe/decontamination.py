"""Which texts training must not hold, and when two texts count as the same; `nvembed.data.overlap` has the method."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nvembed.recipe.base import Fraction, Positive, Section

Share = Annotated[float, Field(gt=0, le=1)]


class Decontamination(Section):
    """Training texts that also stand in evaluation sets are dropped, each with its reason."""

    tasks: list[str] = Field(
        [], description="MTEB tasks and benchmarks, by name, whose texts training must not hold; none: not checked"
    )
    files: list[str] = Field(
        [], description="further evaluation sets: folders in BEIR form, or files with one text a row"
    )
    min_words: Positive = Field(8, description="shorter evaluation texts are found only where they stand word for word")
    shared: Share = Field(0.35, description="share of an evaluation text's rarest word pairs that makes a candidate")
    similarity: Share = Field(0.75, description="similarity of a candidate to the nearest stretch of the training text")
    bm25: dict[str, Fraction] = Field(
        {},
        description="source → share of an evaluation text's BM25 score with itself at which a query goes too",
    )
