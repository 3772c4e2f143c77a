"""What is measured, on what, and how sure one wants to be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nvembed.recipe.base import Positive, Section, TaskType

Candidate = Literal["bm25", "base", "stage1", "stage2"]


class OwnSet(Section):
    """A user's own evaluation set: a folder in BEIR form, or a file of pairs."""

    path: str = Field(
        description="a folder with corpus.jsonl, queries.jsonl and qrels.tsv (or qrels/test.tsv), or a JSONL, Parquet, "
        "CSV or TSV file of pairs"
    )
    instruction: str = Field(
        "Given a query, retrieve the passages that answer it", description="task sentence of the queries"
    )
    document_instruction: str = Field("", description="task sentence of the passages; empty: none")
    query: str = Field("query", description="column of a pairs file")
    positive: str = Field("positive", description="column of a pairs file")
    license: str = "unspecified"
    digest: str | None = Field(None, description="digest of its files; written by resolve_recipe")


class AirBench(Section):
    """AIR-Bench: dev is scored here, of test the rankings are written for its maintainers to score."""

    versions: list[Literal["24.04", "24.05"]] = Field(["24.05"], min_length=1)
    task_types: list[Literal["qa", "long-doc"]] = Field(["qa", "long-doc"], min_length=1)
    domains: list[str] = Field([], description="healthcare, law, …; none given: all")
    languages: list[str] = Field(["en"], description="en, zh, …; none given: all")
    splits: list[Literal["dev", "test"]] = Field(["dev"], min_length=1, description="24.04 has test alone")
    instruction: str = Field(
        "Given a question, retrieve passages that answer the question", description="task sentence of the queries"
    )
    mirror: str | None = Field(
        None, description="folder in place of the hub: <repo>/<version>/<split>.parquet (.jsonl), as the hub has them"
    )


class Seen(Section):
    """A source of the training data, for the tasks that are no test of what it has not seen."""

    task_type: TaskType
    datasets: list[str] = Field([], description="hub datasets that it names")


class Evaluation(Section):
    """What is measured, and how sure one wants to be."""

    candidates: list[Candidate] = Field(["bm25", "base", "stage1", "stage2"])
    splits: list[Literal["dev", "test"]] = Field(["dev", "test"], description="of the sets that the data holds out")
    benchmarks: list[str] = Field([], description='by the names that mteb knows: "MTEB(eng, v1)", "MTEB(eng, v2)", …')
    tasks: list[str] = Field([], description="single MTEB tasks, by name")
    task_types: list[str] = Field(
        [], description="of benchmarks and tasks, those of these types alone (Retrieval, STS, …); none given: all"
    )
    languages: list[str] = Field(
        [], description="of benchmarks and tasks, these languages alone (eng, deu, …); none given: all"
    )
    own: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], OwnSet] = Field(
        {}, description="one's own sets by name; each becomes a task of the split test"
    )
    air_bench: AirBench | None = None
    shards: Positive = Field(1, description="tasks of the pipeline that a candidate's benchmarks are divided among")
    vector_cache_gb: Annotated[float, Field(ge=0)] = Field(
        20, description="vectors of large corpora kept in the state for tasks that share them, and for a retry"
    )
    trained_on: dict[str, dict[str, Seen]] = Field(
        {}, description="candidate → source of its training data → what that is; written by resolve_recipe"
    )
    bootstrap_samples: Positive = 2000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    batch_tokens: Positive = 16384
    seed: int = 17

    @property
    def has_benchmarks(self) -> bool:
        """Whether anything is measured beside what the data holds out."""
        return bool(self.benchmarks or self.tasks or self.own or self.air_bench)

    @model_validator(mode="after")
    def _filters_have_something_to_filter(self) -> Evaluation:
        if (self.task_types or self.languages) and not (self.benchmarks or self.tasks):
            raise ValueError("task_types and languages choose among benchmarks and tasks; name some of these")
        return self
