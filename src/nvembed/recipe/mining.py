"""How hard negatives are found: who scores, how far it is looked, which candidates may be negatives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nvembed.recipe.base import Positive, Section


class Teacher(Section):
    """What scores candidates: an embedding model, used as its own card says, or BM25."""

    kind: Literal["model", "bm25"] = Field("model", description="bm25: by words; the other keys are not used")
    backbone: str = Field("", description="an embedding model: hub id, folder or `package:<module>`")
    revision: str | None = None
    pooling: Literal["mean", "cls", "last"] = "mean"
    query_prefix: str = ""
    document_prefix: str = ""
    max_length: Positive = 256
    trust_remote_code: bool = False
    digest: str | None = Field(None, description="digest of the model's files; written by resolve_recipe")

    @model_validator(mode="after")
    def _a_model_is_named(self) -> Teacher:
        if self.kind == "model" and not self.backbone:
            raise ValueError("backbone is missing: name the teacher's model, or set kind=bm25")
        return self


class CrossEncoder(Section):
    """A model that reads query and passage together; it scores the teacher's candidates anew."""

    backbone: str = Field(description="a sequence classifier with one label: hub id or folder")
    revision: str | None = None
    max_length: Positive = 512
    trust_remote_code: bool = False
    digest: str | None = Field(None, description="digest of the model's files; written by resolve_recipe")


class Sampling(Section):
    """Negatives drawn among the best that pass the rule, the nearer the likelier, in place of the very best."""

    enabled: bool = False
    top: Positive = Field(50, description="how many of the best are drawn from")
    temperature: Annotated[float, Field(gt=0)] = Field(0.05, description="divides the scores in the draw's softmax")


class Search(Section):
    """How the nearest passages are looked for."""

    index: str = Field("exact", description="exact, or a faiss factory string (`HNSW32`, `IVF1024,Flat`) for about so")
    effort: Positive | None = Field(None, description="an index's efSearch or nprobe; none: enough for most")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the exact search's first pass; what is found does not depend on it"
    )
    seed: int = 17


class Mining(Section):
    """Hard negatives: NV-Retriever's positive-aware filters (arXiv 2407.15831)."""

    enabled: bool = True
    teacher: Teacher
    more_teachers: list[Teacher] = Field([], description="each gives negatives by its own scores; their union is taken")
    cross_encoder: CrossEncoder | None = Field(None, description="scores the candidates of every teacher anew")
    num_negatives: Positive = 7
    method: Literal["naive", "shifted", "absolute", "margin", "percentage"] = "percentage"
    threshold: float = Field(0.95, description="percentage: share of the positive's score; margin, absolute: score")
    shift: Annotated[int, Field(ge=0)] = Field(0, description="shifted: how many of the nearest to leave out")
    near_copies: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.8, description="likeness (Jaccard, word 5-grams) to query or positive that rules a passage out; none: off"
    )
    sampling: Sampling = Sampling()
    depth: Positive = Field(100, description="candidates looked at for each query")
    max_depth: Positive = Field(
        1600, description="depth doubles up to this for a query whose candidates the rule leaves too few of"
    )
    again_with_stage1: bool = Field(
        False, description="mine once more with the model that stage 1 made, for stage 2; the rules stay"
    )
    search: Search = Search()
    batch_tokens: Positive = 16384
    seed: int = 17

    @model_validator(mode="after")
    def _depths_agree(self) -> Mining:
        if self.max_depth < self.depth:
            if "max_depth" in self.model_fields_set:
                raise ValueError(f"max_depth is {self.max_depth}, below depth, {self.depth}")
            object.__setattr__(self, "max_depth", self.depth)
        if self.sampling.enabled and self.sampling.top < self.num_negatives:
            raise ValueError(f"sampling.top is {self.sampling.top}, below num_negatives, {self.num_negatives}")
        return self

    @property
    def teachers(self) -> list[Teacher]:
        """All of them, the first one first."""
        return [self.teacher, *self.more_teachers]
