"""The sources of a mix: where each lies, what its rows look like, how it is labelled, what its licence allows.

Adding a dataset is a few lines here and no code, unless its rows have a shape of their own.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nvembed.recipe.base import Positive, Section, TaskType

Shape = Literal["pairs", "triplets", "lists", "ids", "beir", "candidates", "labelled", "sets", "graded"]
LabelRule = Literal["label-text", "example-based"]
Mark = Literal["F", "M"]

_RULED: frozenset[Shape] = frozenset({"labelled", "sets"})
_JOINED: frozenset[Shape] = frozenset({"ids", "beir", "candidates"})


class Table(Section):
    """Rows somewhere: a dataset on the hub, or a file of one's own.

    Of a second table (`corpus`, `queries`) the keys that are not given are its source's own.
    """

    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = Field(None, description="hub id, owner/name")
    config: str | None = Field(None, description="configuration of the dataset; none: its default")
    split: str | None = Field(None, description="split; a pattern such as `msmarco*` must fit exactly one")
    files: str | None = Field(None, description="files within the repository by pattern, in place of config and split")
    revision: str | None = Field(None, description="commit, whole or its first digits, or a branch; pin it")
    path: str | None = Field(None, description="in place of repo: Parquet, JSONL, CSV or TSV; local, s3://, gs://")
    columns: dict[str, str] = Field(
        {}, description="role: column; `a|b` takes the one that is there, `a+b` joins texts, `a.b` looks inside a"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Table:
        if self.repo and self.path:
            raise ValueError("has both repo and path; keep one")
        return self


class Place(Table):
    """A table whose rows have one of the known shapes."""

    shape: Shape = Field("pairs", description="what a row holds")
    corpus: Table = Field(Table(), description="ids, beir, candidates: where the passages are (columns id and text)")
    queries: Table | None = Field(None, description="ids, beir, candidates: where the queries are (id and text)")
    keep_below: Annotated[float, Field(gt=0, le=1)] = Field(
        0.95, description="candidates: a negative scores less than this share of the positive"
    )
    most_negatives: Positive = Field(7, description="candidates: negatives taken, the nearest first")

    @model_validator(mode="after")
    def _only_joined_shapes_join(self) -> Place:
        if self.shape not in _JOINED and (self.queries is not None or self.corpus != Table()):
            raise ValueError(f"shape {self.shape} has its texts in its rows: drop corpus and queries")
        return self


class Source(Place):
    """A dataset of a mix."""

    stages: list[Literal[1, 2]] = Field([1, 2], description="the training stages that train on it", min_length=1)
    task_type: TaskType = "retrieval"
    instruction: str | None = Field(None, description="task sentence of queries; none: data.instructions of its type")
    document_instruction: str | None = Field(
        None, description="task sentence of documents; none: the query's for symmetric tasks, empty otherwise"
    )
    label_rule: LabelRule | None = Field(
        None, description="labelled, sets: the positive is the label's text, or another example of the class"
    )
    labels: list[str] | dict[str, str] = Field(
        [], description="texts of the labels: of 0, 1, … or of each value; a label outside them is unusable"
    )
    label_first: bool = Field(False, description="several labels in a list or a text: the first one counts")
    min_score: float | None = Field(None, description="graded: a pair scored so or higher is a positive pair")
    both_directions: bool = Field(True, description="graded: each text of a positive pair is a query once")
    cap: int | None = Field(None, description="use at most so many rows, sampled by content")
    pool: str | None = Field(
        None, description="mining: sources of one pool look for negatives in each other's passages; none: in its own"
    )
    rows: Positive | None = Field(None, description="rows that are expected; for shares and for the check")
    license: str = "unspecified"
    known: dict[str, Mark] = Field(
        {}, description="how surely each key is known: F read at a source, M from memory, checked before it is used"
    )
    fallback: list[Place] = Field([], description="other places, tried in order if data.allow_fallback is true")
    held_out: list[Table] = Field([], description="tables whose texts must not be trained on; columns: text")
    synthesis: bool = Field(False, description="written by the synthesis section, not read; left out where that is off")

    @model_validator(mode="after")
    def _is_whole(self) -> Source:
        if self.synthesis == bool(self.repo or self.path):
            raise ValueError("needs one of repo, path and synthesis: true, to say where it comes from")
        if self.cap is not None and self.cap <= 0:
            raise ValueError(f"cap is {self.cap}: give a positive number, or leave the source out (set it to null)")
        if (self.shape in _RULED) != (self.label_rule is not None):
            said = "needs" if self.shape in _RULED else "has no labels: drop"
            raise ValueError(f"shape {self.shape} {said} label_rule")
        if self.min_score is not None and self.shape != "graded":
            raise ValueError("min_score is for shape graded alone")
        if self.shape == "graded" and self.min_score is None:
            raise ValueError("shape graded needs min_score: from which score on a pair is a positive pair")
        return self

    @property
    def expected(self) -> int | None:
        """Rows that are used of it, as far as the recipe knows."""
        known = [number for number in (self.cap, self.rows) if number is not None]
        return min(known) if known else None
