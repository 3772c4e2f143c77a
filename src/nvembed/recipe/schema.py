"""The typed recipe. Unknown keys are refused; every default is written here and nowhere else."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nvembed.recipe.ablation import Ablation
from nvembed.recipe.base import Fraction, Positive, Section, TaskType, Weight
from nvembed.recipe.batches import Batches
from nvembed.recipe.blocks import LatentBlock, LoRA, SelfAttentionBlock
from nvembed.recipe.evaluation import Evaluation
from nvembed.recipe.losses import Distillation, FalseNegatives, Hardness, InBatch, Matryoshka
from nvembed.recipe.mining import Mining
from nvembed.recipe.mix import Mix
from nvembed.recipe.registration import Registration
from nvembed.recipe.resources import Resources
from nvembed.recipe.synthesis import Synthesis
from nvembed.recipe.watching import BadSteps, DevCheck


class Model(Section):
    """The embedding model: a backbone, how it attends and pools, what of it is trained."""

    backbone: str = Field(description="hub id, local folder, `package:<module>` or `random:<shape>`")
    revision: str | None = Field(None, description="hub revision; pin it")
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    pooling: Literal["latent", "mean", "last", "self-attention"] = "latent"
    latent: LatentBlock = LatentBlock()
    self_attention: SelfAttentionBlock = SelfAttentionBlock()
    lora: LoRA = LoRA()
    max_length: Positive = 512
    query_template: str = "Instruct: {task}\nQuery: {text}"
    text_rule: Literal["auto", "offset", "nv-embed"] = Field(
        "auto",
        description="which tokens are pooled: by character offset, or as published, which the published layout needs; "
        "auto: a saved model's own, otherwise by offset",
    )
    append_eos: bool = Field(True, description="append the tokenizer's end token where it adds none itself")
    card_pooling: Literal["mean", "cls", "last"] = Field("mean", description="the untrained backbone's own pooling")
    card_query_prefix: str = Field("", description="what the untrained backbone's card puts before a query")
    card_document_prefix: str = Field("", description="what the untrained backbone's card puts before a document")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    quantization: Literal["none", "nf4"] = Field(
        "none", description="the frozen backbone while it is trained on: nf4 holds it in 4 bits (the extra `quant`)"
    )
    trust_remote_code: bool = False
    digest: str | None = Field(None, description="digest of the backbone's files; written by resolve_recipe")
    seed: int = 17

    @model_validator(mode="after")
    def _template_has_both_fields(self) -> Model:
        if "{task}" not in self.query_template or "{text}" not in self.query_template:
            raise ValueError("query_template must contain {task} and {text}")
        return self

    @model_validator(mode="after")
    def _four_bits_are_frozen(self) -> Model:
        if self.quantization != "none" and not self.lora.enabled:
            raise ValueError(
                f"quantization is {self.quantization}, but lora.enabled is false: weights of 4 bits cannot be trained; "
                "set lora.enabled=true or quantization=none"
            )
        return self


class Columns(Section):
    """Names of the columns in a user's own file."""

    query: str = "query"
    positive: str = "positive"
    negatives: str = "negatives"
    task: str = "task"


_FILE_INSTRUCTIONS: dict[TaskType, str] = {
    "retrieval": "Given a query, retrieve the passages that answer it",
    "classification": "Classify the given text",
    "clustering": "Identify the topic of the given text",
    "sts": "Retrieve semantically similar text",
    "pair": "Retrieve text that belongs with the given text",
}
_INSTRUCTIONS: dict[str, dict[TaskType, str]] = {
    "file": _FILE_INSTRUCTIONS,
    "mix": _FILE_INSTRUCTIONS,
    "python_docs": {
        "retrieval": "Given a summary, retrieve its documentation",
        "classification": "Classify a piece of Python documentation by the library module it documents",
        "clustering": "Identify the library module that a piece of Python documentation belongs to",
    },
}


class Data(Mix):
    """Where examples come from and what is held out."""

    source: Literal["python_docs", "file", "mix"] = "python_docs"
    path: str | None = Field(
        None, description="a JSONL, Parquet, CSV or TSV file: local, s3://, gs://, hf://datasets/…"
    )
    columns: Columns = Columns()
    license: str = Field("unspecified", description="licence of the user's own file")
    digest: str | None = Field(None, description="content digest or ETag of the source; written by resolve_recipe")
    instructions: dict[TaskType, str] = Field(
        {}, description="the task sentences; those not given are the source's own"
    )
    task_types: list[TaskType] = Field(["retrieval", "classification", "clustering"], description="what is made of it")
    dev_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.15
    min_test_queries: Positive = 30
    min_class_size: Annotated[int, Field(ge=4)] = Field(20, description="documents a label needs to be a class")
    near_copy_threshold: Fraction = Field(0.7, description="Jaccard similarity of word 5-grams; above: a near copy")
    example_negatives: Positive = Field(4, description="negatives of other classes for example-based labels")
    max_bad_rows: Fraction = Field(0.01, description="share of unusable rows above which the file is refused")
    limit: Positive | None = Field(None, description="use at most so many pairs, sampled")
    seed: int = 17

    @property
    def holds_out_dev(self) -> bool:
        """Whether there are dev queries."""
        if self.source == "mix":
            return self.dev_queries > 0
        return bool(self.dev_fraction and "retrieval" in self.task_types)

    @model_validator(mode="after")
    def _a_path_means_a_file(self) -> Data:
        if self.path is not None and self.source != "file":
            object.__setattr__(self, "source", "file")
        object.__setattr__(self, "instructions", {**_INSTRUCTIONS[self.source], **self.instructions})
        if self.source == "mix":
            self.check_sources()
        if self.source == "file" and not self.path:
            raise ValueError("source is 'file' but path is not set")
        if self.path is not None and "{{$." in self.path:
            raise ValueError("path contains '{{$.', which the pipeline would take for a placeholder")
        if self.dev_fraction + self.test_fraction >= 0.9:
            raise ValueError("dev_fraction and test_fraction leave too little to train on")
        return self


class Stage(Section):
    """One training stage."""

    steps: Positive
    steps_without_bf16: Positive | None = Field(
        None, description="steps on a CPU without bf16 instructions, where a step takes two to three times as long"
    )
    batch_size: Positive = 128
    negatives: Annotated[int, Field(ge=0)] = Field(7, description="own hard negatives used of each example, at most")
    task_types: list[TaskType] = Field(["retrieval"], description="whose examples the stage trains on")
    batches: Batches = Batches()
    in_batch: InBatch = InBatch()
    hard_negatives_weight: Weight = Field(1.0, description="what each own hard negative counts in the denominator")
    false_negatives: FalseNegatives = FalseNegatives()
    hardness: Hardness = Hardness()
    matryoshka: Matryoshka = Matryoshka()
    distillation: Distillation = Distillation()
    temperature: Annotated[float, Field(gt=0)] = Field(0.02, description="divides the cosines")
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    latent_learning_rate: Annotated[float, Field(gt=0)] | None = None
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    weight_decay: Annotated[float, Field(ge=0)] = 0.03
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    query_max_length: Positive = 512
    document_max_length: Positive = 512
    backbone_dropout: Fraction = Field(0.0, description="dropout inside the backbone; LoRA's own is model.lora.dropout")
    micro_batch_tokens: Positive | Literal["auto"] = Field(
        32768, description="tokens encoded at once; more goes by gradient cache; auto: what this machine's memory holds"
    )
    checkpoint_steps: Positive = 100
    checkpoint_minutes: Annotated[float, Field(gt=0)] | None = Field(
        15, description="a checkpoint after so many minutes too, whichever comes first; none: by steps alone"
    )
    keep_checkpoints: Positive = 2
    dev_check: DevCheck = DevCheck()
    bad_steps: BadSteps = BadSteps()
    zero_stage: Literal[0, 1, 2, 3, "auto"] = Field(
        0, description="what the ranks share out: 1 Adam's moments, 2 gradients too, 3 weights too; auto: as they need"
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        False, description="compute the backbone again in the backward pass rather than keep it; auto: if it must be"
    )
    log_steps: Positive = 10
    seed: int = 17

    @model_validator(mode="before")
    @classmethod
    def _in_batch_is_a_section(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and "in_batch_negatives" in tree:
            raise ValueError("in_batch_negatives is now in_batch.enabled; write `in_batch: {enabled: true or false}`")
        return tree


class Recipe(Section):
    """Everything a run does, in one file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    description: str = ""
    model: Model
    data: Data = Data()
    synthesis: Synthesis = Synthesis()
    mining: Mining
    stage1: Stage
    stage2: Stage
    evaluation: Evaluation = Evaluation()
    registration: Registration = Registration()
    resources: Resources = Resources()
    ablation: Ablation | None = Field(None, description="what `nvembed ablate` compares; no part of a run")

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        for name in ("stage1", "stage2"):
            stage: Stage = getattr(self, name)
            for key in ("query_max_length", "document_max_length"):
                if getattr(stage, key) > self.model.max_length:
                    raise ValueError(f"{name}.{key} is {getattr(stage, key)}, above model.max_length")
            if stage.negatives == 0 and not (stage.in_batch.enabled or stage.in_batch.on_for):
                raise ValueError(f"{name} has neither negatives nor in_batch.enabled: there is nothing to learn from")
            if stage.distillation.weight and not self.mining.enabled:
                raise ValueError(f"{name}.distillation.weight is above 0, but mining, whose teacher scores, is off")
            decides = stage.dev_check.keep_best or stage.dev_check.patience
            if decides and not self.data.holds_out_dev:
                raise ValueError(f"{name}.dev_check decides by dev queries, but the data section holds out none")
        if self.data.source == "mix" and "splits" not in self.evaluation.model_fields_set:
            # a mix holds out dev queries and no test: the benchmarks are its test
            object.__setattr__(self, "evaluation", self.evaluation.model_copy(update={"splits": ["dev"]}))
        for number, stage in ((1, self.stage1), (2, self.stage2)):
            for name, source in self.data.sources.items():
                if number in source.stages and source.task_type not in stage.task_types:
                    raise ValueError(
                        f"data.sources.{name} is for stage {number}, but stage{number}.task_types lacks its "
                        f"{source.task_type}"
                    )
        return self


SECTIONS: dict[str, type[Section]] = {
    "model": Model,
    "data": Data,
    "synthesis": Synthesis,
    "mining": Mining,
    "stage1": Stage,
    "stage2": Stage,
    "evaluation": Evaluation,
    "registration": Registration,
    "resources": Resources,
}
