"""Does a stage fit the machine, and how: memory by part, the settings for it, time and disk, before anything starts.

The rule: keep everything the backward pass needs if memory holds it (forward and backward: about 4N operations a token
with LoRA on N parameters). If not, the gradient cache encodes the batch twice, chunk by chunk (6N); if not even a
chunk of reasonable size fits, gradient checkpointing (6N); both together (8N) only where neither alone fits. The
lowest ZeRO stage that serves is taken, since each higher one talks more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nvembed.modeling.sizes import Sizes, read_sizes
from nvembed.training.engine import PLAIN_ATTENTION_TOKENS
from nvembed.training.footprint import Footprint, measure
from nvembed.training.machine import GIB, Machine
from nvembed.training.plan_words import doubts, reason

if TYPE_CHECKING:
    from nvembed.recipe import Model, Stage

MARGIN = 0.9  # of a device's memory is planned with
GPU_OVERHEAD = int(1.5 * GIB)  # CUDA's context, NCCL, kernels' workspaces
CPU_OVERHEAD = int(1.0 * GIB)  # interpreter, torch, transformers, DeepSpeed, the examples
HEAP = 2.0  # resident bytes on a CPU for each that is allocated: malloc keeps holes (benchmarks/footprint.py)
LEAST_CHUNK = 1024  # tokens; smaller chunks leave a device idle
CPU_CHUNK = 1024  # tokens after which a padded batch is closed, so each such chunk casts weights of its own


@dataclass(frozen=True)
class Load:
    """What a rank has to encode in a step: texts, and tokens expected and at the most."""

    texts: int
    tokens: int
    most_tokens: int
    longest: int
    documents: int
    measured: bool


@dataclass(frozen=True)
class Plan:
    """The settings, whether they fit, and what they cost on each rank. Bytes, seconds, operations."""

    stage: str
    fits: bool
    why: str
    zero_stage: int
    micro_batch_tokens: int
    gradient_checkpointing: bool
    gradient_cache: bool
    precision: str
    parameters: dict[str, int]
    memory: dict[str, int]
    memory_available: int
    load: Load
    flops_per_step: float
    seconds_per_step: float | None
    seconds: float | None
    disk: dict[str, int]
    machine: Machine
    assumed: str | None
    warnings: list[str] = field(default_factory=list)

    @property
    def memory_needed(self) -> int:
        """Bytes of a rank's device."""
        return sum(self.memory.values())

    def settings(self) -> dict[str, Any]:
        """The values in the place of `auto`."""
        keys = ("micro_batch_tokens", "zero_stage", "gradient_checkpointing")
        return {key: getattr(self, key) for key in keys}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "memory_needed": self.memory_needed}


def make_plan(
    name: str,
    stage: Stage,
    model: Model,
    machine: Machine,
    *,
    lengths: tuple[float, float] | None = None,
    sizes: Sizes | None = None,
) -> Plan:
    """Plan a stage.

    Args:
        lengths: tokens of a query and of a document, on average; None: the most that the stage allows.
        sizes: the model's, if read before.

    Raises UserError for a backbone whose shape cannot be had.
    """
    return _Planner(name, stage, model, machine, lengths, sizes or read_sizes(model)).plan()


def expected_load(stage: Stage, ranks: int, lengths: tuple[float, float] | None) -> Load:
    """A rank's share of a step; documents that several examples share are not taken off."""
    examples = -(-stage.batch_size // ranks)
    documents = examples * (1 + stage.negatives)
    query, document = lengths or (stage.query_max_length, stage.document_max_length)
    return Load(
        texts=examples + documents,
        tokens=int(examples * query + documents * document),
        most_tokens=examples * stage.query_max_length + documents * stage.document_max_length,
        longest=max(stage.query_max_length, stage.document_max_length),
        documents=documents,
        measured=lengths is not None,
    )


class _Planner:
    def __init__(
        self,
        name: str,
        stage: Stage,
        model: Model,
        machine: Machine,
        lengths: tuple[float, float] | None,
        sizes: Sizes,
    ) -> None:
        self.name, self.stage, self.model, self.machine, self.sizes = name, stage, model, machine, sizes
        self.load = expected_load(stage, machine.ranks, lengths)
        self.precision = machine.precision(model)
        self.low = self.precision == "bfloat16" and machine.device == "cuda"
        self.footprints: dict[bool, Footprint] = {}
        safe = int(machine.memory * MARGIN)
        self.available = safe - (GPU_OVERHEAD if machine.device == "cuda" else CPU_OVERHEAD)

    def plan(self) -> Plan:
        """The first of the possible settings that fits, or the nearest miss."""
        best: tuple[int, bool, int] | None = None
        for zero, checkpointing, wanted in self._candidates():
            tokens = self._budget(zero, checkpointing)
            if best is None or tokens > best[2]:
                best = (zero, checkpointing, tokens)
            if tokens >= wanted:
                budget = self._given_budget() or self._round(min(tokens, self._whole_batch()))
                return self._made(zero, checkpointing, budget, fits=True)
        assert best is not None
        return self._made(best[0], best[1], self._given_budget() or self.load.longest, fits=False)

    def _candidates(self) -> Iterator[tuple[int, bool, int]]:
        """ZeRO stage, checkpointing, and the tokens of a chunk that it must hold: what costs least first."""
        stage, longest, whole = self.stage, self.load.longest, self._whole_batch()
        nf4 = self.model.quantization != "none"
        most = 0 if self.machine.ranks == 1 else 2 if nf4 else 3
        zeros = range(most + 1) if stage.zero_stage == "auto" else [stage.zero_stage]
        usual = min(max(longest, LEAST_CHUNK), whole)
        if stage.gradient_checkpointing == "auto":
            rounds = [[(False, whole), (False, usual), (True, whole)], [(True, usual)], [(True, longest)]]
        else:
            rounds = [[(stage.gradient_checkpointing, tokens)] for tokens in (usual, longest)]
        given = self._given_budget()
        for ways in rounds:
            for zero in zeros:
                for checkpointing, tokens in ways:
                    least = tokens if given is None else max(longest, min(given, self.load.most_tokens))
                    yield zero, checkpointing, least

    def _given_budget(self) -> int | None:
        tokens = self.stage.micro_batch_tokens
        return None if tokens == "auto" else int(tokens)

    def _whole_batch(self) -> int:
        """Tokens that a batch may well have: a sixth above what is expected, never more than there can be."""
        spread = 1.15 if self.load.measured else 1.0
        return max(self.load.longest, min(int(self.load.tokens * spread), self.load.most_tokens))

    def _round(self, tokens: int) -> int:
        """Whole units, so that machines that differ by a few megabytes divide a batch alike."""
        unit = 1024 if tokens >= 4096 else 128
        return max(self.load.longest, tokens // unit * unit if tokens < self._whole_batch() else tokens)

    def _footprint(self, checkpointing: bool) -> Footprint:
        if checkpointing not in self.footprints:
            on_cpu = self.machine.device == "cpu"
            self.footprints[checkpointing] = measure(
                self.model,
                self.sizes.layers,
                length=self.load.longest,
                precision=self.precision,
                low=self.low,
                plain_attention=on_cpu and self.load.longest <= PLAIN_ATTENTION_TOKENS and not checkpointing,
                checkpointing=checkpointing,
            )
        return self.footprints[checkpointing]

    def _budget(self, zero: int, checkpointing: bool) -> int:
        """Tokens that can be encoded at once in what the rest leaves."""
        left = self.available - sum(self._standing(zero).values())
        held = self._activations(checkpointing)
        low, high = 0, max(self.load.most_tokens, self._given_budget() or 0, self.load.longest)
        if held(high) <= left:
            return high
        while high - low > 32:
            middle = (low + high) // 2
            low, high = (middle, high) if held(middle) <= left else (low, middle)
        return low

    def _activations(self, checkpointing: bool) -> Callable[[int], int]:
        footprint, on_cpu = self._footprint(checkpointing), self.machine.device == "cpu"
        factor = HEAP if on_cpu else 1.0

        def held(tokens: int) -> int:
            chunks = max(1, -(-tokens // CPU_CHUNK)) if on_cpu else 1
            return int(factor * (footprint.chunk_bytes(tokens) + (chunks - 1) * footprint.fixed_bytes))

        return held

    def _standing(self, zero: int) -> dict[str, int]:
        """Bytes of a rank that do not depend on the chunk."""
        sizes, ranks = self.sizes, self.machine.ranks
        trained, share = 4 * sizes.trained, 4 * sizes.trained // ranks
        frozen = sizes.weight_bytes(self.low) - trained
        weights = {"frozen weights": frozen, "trained weights": trained}
        if zero == 3:  # each rank keeps a share, and gathers the layers at hand: two of the largest
            gathered = 2 * sizes.largest * (2 if self.low else 4)
            weights = {"frozen weights": frozen // ranks + gathered, "trained weights": share}
        if sizes.quantised:  # a layer at a time is multiplied out, and again in the backward pass
            weights["a layer out of 4 bits"] = 2 * sizes.largest * (2 if self.low else 4)
        return {
            **weights,
            "gradients": share if zero >= 2 else trained,
            "gradients in transit": min(trained, 4 * 500_000_000) if ranks > 1 or zero else 0,
            "masters": share if zero else 0,
            "Adam's moments": 2 * (share if zero else trained),
            "vectors": self._vectors(),
        }

    def _vectors(self) -> int:
        """Vectors of the rank's texts and of all ranks' documents with their gradients; logits, and what they pass."""
        gathered = self.load.documents * self.machine.ranks if self.stage.in_batch.enabled else self.load.documents
        queries = self.load.texts - self.load.documents
        return 4 * (2 * (self.load.texts + gathered) * self.sizes.dim + 6 * queries * gathered)

    def _made(self, zero: int, checkpointing: bool, budget: int, *, fits: bool) -> Plan:
        memory = {**self._standing(zero), "activations": self._activations(checkpointing)(self._held(budget))}
        cached = budget < self._whole_batch()
        flops = self._flops(checkpointing, cached, budget)
        seconds = flops / self.machine.flops if self.machine.flops else None
        stage, sizes = self.stage, self.sizes
        plan = Plan(
            stage=self.name,
            fits=fits,
            why="",
            zero_stage=zero,
            micro_batch_tokens=budget,
            gradient_checkpointing=checkpointing,
            gradient_cache=cached,
            precision=self.precision,
            parameters={"total": sizes.total, "frozen": sizes.frozen, "trained": sizes.trained},
            memory=memory,
            memory_available=self.available,
            load=self.load,
            flops_per_step=flops,
            seconds_per_step=seconds,
            seconds=None if seconds is None else seconds * stage.steps,
            disk=self._disk(),
            machine=self.machine,
            assumed=sizes.assumed,
            warnings=doubts(zero, checkpointing, cached, self.machine, self._given_budget(), self.load),
        )
        return plan if fits else replace(plan, why=reason(plan, self.model))

    def _held(self, budget: int) -> int:
        return max(self.load.longest, min(budget, self._whole_batch()))

    def _flops(self, checkpointing: bool, cached: bool, budget: int) -> float:
        """Operations of a rank's step."""
        footprint, tokens = self._footprint(checkpointing), self.load.tokens
        calls = max(1, -(-tokens // max(budget, 1)))
        forward = footprint.forward_flops * tokens if cached else 0.0
        return footprint.step_flops * tokens + footprint.call_flops * calls + forward

    def _disk(self) -> dict[str, int]:
        """Bytes on the node's disk, the dataset aside."""
        sizes = self.sizes
        checkpoint = 12 * sizes.trained
        return {
            "base weights": sizes.total * (2 if self.low else 4),
            "one checkpoint": checkpoint,
            "checkpoints": checkpoint * (self.stage.keep_checkpoints + 1),  # a new one is whole before an old one goes
            "adapter": 4 * sizes.trained,
            "registered model": 4 * sizes.total,
        }
