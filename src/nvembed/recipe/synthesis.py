"""Examples written by language models: from which documents, by which models, within which budget, how they are sifted.

No key stands in a recipe: an endpoint names the environment variable that holds its own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from nvembed.recipe.base import Fraction, Positive, Section, Weight
from nvembed.recipe.mining import Teacher

QueryKind = Literal["question", "keywords", "description", "claim", "how-to"]
QueryLength = Literal["short", "medium", "long"]
PaperType = Literal["short-long", "long-short", "short-short", "long-long", "sts"]
Share = Annotated[float, Field(ge=0)]


class Endpoint(Section):
    """A server that speaks the chat-completions API, and one model it serves."""

    base_url: str = Field(description="up to and with /v1: http://localhost:8000/v1, https://api.openai.com/v1")
    model: str = Field(description="the model's name there")
    weight: Weight = Field(1.0, description="its share of the requests, against the other endpoints' weights")
    api_key_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")] = Field(
        "OPENAI_API_KEY", description="NAME of the environment variable, or of the mounted secret's key, with the key"
    )
    price_in: Share | None = Field(None, description="money for a million tokens sent; none: not known")
    price_out: Share | None = Field(None, description="money for a million tokens answered; none: not known")
    answers: Literal["json", "lines"] = Field(
        "json",
        description="lines: bare queries, for small models that write no JSON; without hard negatives, judge and paper",
    )
    json_schema: Literal["auto", "never"] = Field("auto", description="ask for JSON by schema where the server has it")
    token_limit: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the server calls the bound on an answer"
    )
    send_seed: bool = Field(True, description="send a seed; false for a server that refuses one")

    @field_validator("base_url")
    @classmethod
    def _holds_no_secret(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is no http:// or https:// address")
        if parts.username or parts.password or parts.query:
            raise ValueError("holds a user, a password or a query; a key comes by the variable that api_key_env names")
        return url.rstrip("/")

    @property
    def priced(self) -> bool:
        """Whether both prices are known."""
        return self.price_in is not None and self.price_out is not None


class Passages(Section):
    """How documents are cut."""

    formats: list[Literal["text", "markdown", "jsonl", "parquet"]] = Field(
        ["text", "markdown", "jsonl", "parquet"], description="files of other kinds are passed over", min_length=1
    )
    text_column: str = Field("text", description="JSONL and Parquet: the column with the text")
    title_column: str = Field("title", description="JSONL and Parquet: the column with a title, where there is one")
    words: Positive = Field(180, description="of a passage, at most")
    overlap: Annotated[int, Field(ge=0)] = Field(30, description="words that a passage shares with the one before")
    min_words: Positive = Field(20, description="a section of fewer goes with the next one")
    limit: Positive | None = Field(None, description="ask about at most so many passages, sampled; none: all")

    @model_validator(mode="after")
    def _windows_advance(self) -> Passages:
        if self.overlap > self.words // 2:
            raise ValueError(f"overlap is {self.overlap}, more than half of words ({self.words})")
        return self


class Queries(Section):
    """What is written for each passage."""

    per_passage: Positive = 2
    hard_negatives: Annotated[int, Field(ge=0)] = Field(
        1, description="texts near the subject that do not answer, for each query; mining adds others"
    )
    kinds: dict[QueryKind, Share] = Field(
        {"question": 3, "keywords": 2, "description": 1, "claim": 1, "how-to": 1}, description="kind: weight"
    )
    lengths: dict[QueryLength, Share] = Field({"short": 2, "medium": 2, "long": 1}, description="length: weight")
    languages: dict[str, Share] = Field({"en": 1}, description="ISO 639-1 code of the query's language: weight")

    @model_validator(mode="after")
    def _something_weighs(self) -> Queries:
        for name in ("kinds", "lengths", "languages"):
            if not sum(getattr(self, name).values()):
                raise ValueError(f"{name} has no weight above 0")
        return self


class PaperTasks(Section):
    """The paper's way (after E5-mistral): tasks are thought up first, then examples are written for each."""

    enabled: bool = False
    types: dict[PaperType, Share] = Field(
        {"short-long": 1, "long-short": 1, "short-short": 1}, description="type: weight"
    )
    tasks: Positive = Field(100, description="different tasks in all")
    tasks_per_request: Positive = Field(20, description="thought up at once")
    examples_per_task: Positive = 2
    hard_negatives: Positive = 1
    languages: dict[str, Share] = Field({"en": 1}, description="ISO 639-1 code: weight")

    @model_validator(mode="after")
    def _something_weighs(self) -> PaperTasks:
        if not sum(self.types.values()) or not sum(self.languages.values()):
            raise ValueError("types and languages need a weight above 0 each")
        return self


class Caps(Section):
    """What a run may use, all that was asked before it was killed included. None: no cap.

    A request counts if the server worked on it; one refused for its rate, or that met no server, does not.
    """

    max_requests: int | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=0, description="sent and answered together")
    max_cost: float | None = Field(None, ge=0, description="in the unit of the endpoints' prices")

    @model_validator(mode="after")
    def _something_can_be_asked(self) -> Caps:
        for name in ("max_requests", "max_tokens", "max_cost"):
            if getattr(self, name) == 0:
                raise ValueError(
                    f"{name} is 0, so nothing could be asked; raise it, or set it to null for no cap, "
                    "or set synthesis.enabled=false"
                )
        return self


class Asking(Section):
    """How endpoints are asked."""

    concurrency: Positive = Field(8, description="requests under way at once")
    timeout: Annotated[float, Field(gt=0)] = Field(120, description="seconds for one answer")
    retries: Annotated[int, Field(ge=0)] = Field(4, description="of one request that times out or fails there")
    patience: Annotated[float, Field(ge=0)] = Field(
        600, description="seconds for which an endpoint that answers nothing is waited for"
    )
    second_tries: Annotated[int, Field(ge=0)] = Field(
        1, description="how often an answer that cannot be used is asked for anew, under another seed"
    )
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    spare_tokens: Annotated[int, Field(ge=0)] = Field(
        0, description="added to the bound on each answer, for models that think before they answer"
    )


class RoundTrip(Section):
    """A query must find its passage among all the others."""

    enabled: bool = True
    rank: Positive = Field(3, description="at this rank or better")
    teacher: Teacher | None = Field(None, description="what ranks; none: mining.teacher, written in by resolve_recipe")
    device: Literal["auto", "cpu", "cuda"] | None = Field(None, description="none: resources.device")


class Judge(Section):
    """A language model says how well each passage answers its query, from 1 to 5."""

    enabled: bool = False
    min_score: Annotated[int, Field(ge=1, le=5)] = 4


class Quality(Section):
    """Which examples are kept."""

    near_copies: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.8, description="likeness (Jaccard, word 5-grams) of two queries above which the later goes; none: exact alone"
    )
    round_trip: RoundTrip = RoundTrip()
    judge: Judge = Judge()
    language: bool = Field(True, description="a query in another language than asked for goes (py3langid)")
    min_words: Positive = Field(2, description="of a query")
    max_words: Positive = Field(80, description="of a query")
    max_leakage: Fraction | None = Field(
        None, description="share of the query's words that stand in its passage; above, it goes; none: measured alone"
    )
    repeated_negatives: Fraction = Field(
        0.8, description="a hard negative so like its passage (Jaccard, word 5-grams) is dropped"
    )


class HeldOutShares(Section):
    """Passages that give no training example and are asked about for dev and test."""

    dev: Fraction = 0.1
    test: Fraction = 0.15
    min_queries: Positive = Field(10, description="accepted queries that test, and half as many that dev must have")


class Synthesis(Section):
    """Examples written by language models. Off unless enabled."""

    enabled: bool = False
    from_documents: bool = Field(True, description="write queries for the passages of documents")
    documents: str | None = Field(
        None, description="a folder or file of documents; none: data.path is one, and there are no pairs of one's own"
    )
    endpoints: list[Endpoint] = Field([], description="who is asked; several share the requests by weight")
    passages: Passages = Passages()
    queries: Queries = Queries()
    paper: PaperTasks = PaperTasks()
    caps: Caps = Caps()
    asking: Asking = Asking()
    quality: Quality = Quality()
    held_out: HeldOutShares = HeldOutShares()
    instruction: str | None = Field(None, description="task sentence; none: data.instructions.retrieval")
    license: str | None = Field(None, description="licence of what is written; none: data.license")
    alone: bool = Field(False, description="nothing but the documents is trained on; written by resolve_recipe")
    digest: str | None = Field(None, description="content digest of the documents; written by resolve_recipe")
    seed: int = 17

    @model_validator(mode="before")
    @classmethod
    def _keys_stay_outside(cls, tree: Any) -> Any:
        # refused by name here, since the general message for an unknown key could not say what to do instead
        endpoints = tree.get("endpoints") if isinstance(tree, dict) else None
        for endpoint in endpoints if isinstance(endpoints, list) else []:
            if isinstance(endpoint, dict) and "api_key" in endpoint:
                raise ValueError("an endpoint has api_key: a recipe holds no key; name its variable in api_key_env")
        return tree

    @model_validator(mode="after")
    def _can_be_done(self) -> Synthesis:
        if not self.enabled:
            return self
        if not self.endpoints:
            raise ValueError("enabled is true, but endpoints is empty; give [{base_url: …/v1, model: …}]")
        if not (self.from_documents or self.paper.enabled):
            raise ValueError("enabled is true, but from_documents and paper.enabled are both false")
        if (self.paper.enabled or self.quality.judge.enabled) and any(one.answers == "lines" for one in self.endpoints):
            raise ValueError(
                "an endpoint's answers is lines, which serves for queries on documents alone; set it to json, or set "
                "paper.enabled and quality.judge.enabled to false"
            )
        if self.caps.max_cost is not None and not all(endpoint.priced for endpoint in self.endpoints):
            raise ValueError("caps.max_cost needs price_in and price_out of every endpoint, or nothing can be counted")
        if self.held_out.dev + self.held_out.test >= 0.9:
            raise ValueError("held_out.dev and held_out.test leave too little to train on")
        return self
