"""Training at Mistral-7B's shape on one GPU: real tokens per second, share of the GEMM peak, peak memory.

    python benchmarks/train_gpu.py --save

A Mistral-7B with random weights in bf16, made on the GPU, looking both ways; LoRA r16 on every linear layer, the
published latent block trained in full, both in float32; an example is nine texts of about 150 tokens (log-normal, 16 to
512). Three cases, each by this project's real step (`training.step.Trainer`) but for the last:

- `cache`: an exact batch of 128 examples, in-batch negatives over all of it, by gradient cache: each text goes forward
  twice and backward once;
- `accumulate`: stage 2's case, in-batch negatives off: groups of examples, each forward and backward once;
- `baseline`: the same work as `accumulate` by transformers and PEFT as they come: padded batches in the order of the
  examples, gradient checkpointing, the block in its plain form, torch's AdamW.

Only the texts' own tokens count. FLOPs are those that the mathematics of a case asks for (`training.peak`), the second
forward pass of gradient cache among them, that of checkpointing not; the peak is that of plain bf16 products, measured
in the same run. Every figure is printed and kept as soon as it is there, and where memory runs out the token budget is
lowered by a quarter. It needs torch, transformers, peft, safetensors and numpy; with DeepSpeed (`--deepspeed`) the
engine is the one that a recipe trains with, otherwise a plain one of one process with the same methods.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from machine import ROOT, describe, heading
from packed import gemm_peak
from torch import Tensor, nn
from train_gpu_baseline import baseline
from train_gpu_measure import TEMPERATURE, TEXTS, Batches, build, free, measured, tokenized, told

from nvembed import NVEmbedModel
from nvembed.training import engine as engines
from nvembed.training.peak import Work, cost_of
from nvembed.training.schedule import parameter_groups
from nvembed.training.step import Trainer

RESULT = ROOT / "benchmarks" / "results" / "train_gpu.json"
STAGE: dict[str, Any] = {  # what a recipe's stage says, without pydantic
    "steps": 1000,
    "negatives": TEXTS - 2,
    "in_batch": {"enabled": True, "on_for": [], "off_for": [], "others_hard_negatives": True, "weight": 1.0},
    "hard_negatives_weight": 1.0,
    "false_negatives": {"same_class": False, "margin": None},
    "hardness": {"strength": 0.0, "of": "all"},
    "matryoshka": {"dims": [], "weights": []},
    "distillation": {"weight": 0.0, "teacher_temperature": None},
    "bad_steps": {"policy": "stop", "spike_factor": None, "spike_window": 20, "max_in_a_row": 5},
    "temperature": TEMPERATURE,
    "learning_rate": 2e-5,
    "latent_learning_rate": None,
    "warmup_steps": 1,
    "weight_decay": 0.03,
    "max_grad_norm": 1.0,
    "query_max_length": 512,
    "document_max_length": 512,
    "zero_stage": 0,
    "gradient_checkpointing": False,
    "seed": 17,
}


def main() -> int:
    """Measure, print, and keep the figures if asked; the exit code: 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["accumulate", "cache", "baseline"])
    parser.add_argument("--batch", type=int, default=128, help="examples of a step (128)")
    parser.add_argument("--steps", type=int, default=2, help="steps of each case that count (2)")
    parser.add_argument("--tokens", type=int, help="token budget; none: by the GPU's memory")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing after so many (8)")
    parser.add_argument("--layers", type=int, help="layers of the backbone (32)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the layers")
    parser.add_argument("--deepspeed", action="store_true", help="train through DeepSpeed's engine, ZeRO 0")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU, to try the script")
    parser.add_argument("--save", "--out", type=Path, nargs="?", const=RESULT, help="keep the figures as JSON")
    asked = parser.parse_args()
    if not asked.tiny and not torch.cuda.is_available():
        print("benchmarks/train_gpu.py needs a CUDA GPU; --tiny tries the script on a CPU", file=sys.stderr)
        return 2
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    end = time.monotonic() + 60 * asked.minutes
    device = torch.device("cpu" if asked.tiny else "cuda")
    print(heading(), flush=True)
    facts = Facts(asked.save)
    told = {name: value for name, value in vars(asked).items() if name != "save"}
    facts.add(machine=describe(), settings=told, gemm_peak=gemm_peak(device, 3), cases={})
    budget = asked.tokens or (400 if asked.tiny else 1024 * max(3, int(memory_gib() - 36) // 7))
    model = build(asked, device)
    for case in asked.cases:
        if time.monotonic() > end:
            print(f"{case}: left out, {asked.minutes} minutes are over", flush=True)
            continue
        if case == "baseline":
            del model
            free()
            found = baseline(asked, device, facts.facts["gemm_peak"])
        else:
            found = ours(model, case, asked, budget, facts.facts["gemm_peak"], end)
        facts.facts["cases"][case] = found
        facts.add()
    return 0


class Facts:
    """What was found so far; kept in the file after each addition, so that a run cut short leaves its figures."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.facts: dict[str, Any] = {}

    def add(self, **facts: Any) -> None:
        """Add and keep."""
        self.facts |= facts
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(self.facts, indent=2) + "\n")


def memory_gib() -> float:
    """Of the GPU. A token's activations take about 7 MB, weights and the block's optimiser state 27 GB."""
    return torch.cuda.get_device_properties(0).total_memory / 2**30


class PlainEngine:
    """The methods of DeepSpeed's engine that the trainer calls, for one process and without DeepSpeed."""

    def __init__(self, module: nn.Module, groups: list[dict[str, Any]], device: torch.device) -> None:
        self.module, self.device = module, device
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)

    def __call__(self, chunks: Any) -> Tensor:
        """Vectors of chunks."""
        return self.module(chunks)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients."""
        loss.backward()

    def set_gradient_accumulation_boundary(self, _is_last: bool) -> None:
        """Nothing to send: there are no other ranks."""

    def zero_optimization_stage(self) -> int:
        """None of DeepSpeed's."""
        return 0

    def step(self) -> None:
        """The optimiser's step; the gradients are gone after it."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def ours(
    model: NVEmbedModel, case: str, asked: argparse.Namespace, budget: int, peak: float, end: float
) -> dict[str, Any]:
    """Some steps of the real trainer."""
    stage = engines_section({**STAGE, "micro_batch_tokens": budget})
    stage.in_batch.enabled = case == "cache"
    encoder = engines.Encoder(model, "float32" if asked.tiny else "bfloat16")
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = parameter_groups(named, stage, is_latent=lambda name: name.startswith("latent."))
    engine: Any
    if asked.deepspeed:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.setdefault("MASTER_PORT", "29511")
        engines.load_deepspeed(model.device.type)
        engines.join_ranks(model.device.type)
        engine = engines.start_engine(encoder, groups, stage)
    else:
        engine = PlainEngine(encoder, groups, model.device)
    batches = Batches(asked.batch, asked.tiny)
    trainer = Trainer(engine, batches, stage, 0, 1, model.device)  # type: ignore[arg-type]
    print(f"\n{case}: {asked.batch} examples a step, {TEXTS} texts each, {'packed' if encoder.packed else 'padded'}")

    def step(number: int) -> dict[str, float]:
        if case == "accumulate":
            largest = max(tokenized(model, [example]).tokens for example in batches.batch(number))
            if largest > stage.micro_batch_tokens:
                raise SystemExit(f"an example of {largest} tokens exceeds the budget of {stage.micro_batch_tokens}")
        result = trainer.step(number)
        if result.bad:
            raise RuntimeError(f"step {number}: {result.bad}")
        return result.record

    def shrink() -> int:
        engine.optimizer.zero_grad(set_to_none=True)
        stage.micro_batch_tokens = stage.micro_batch_tokens * 3 // 4
        return stage.micro_batch_tokens

    cost, passes = cost_of(model), 2 if case == "cache" else 1

    def flops(work: Work) -> float:
        assert model.latent is not None
        return cost.flops(work, forward_passes=passes, folded=model.latent.folded)

    free()
    tokens = lambda number: tokenized(model, batches.batch(number))  # noqa: E731
    found = measured(step, shrink, tokens, flops, asked, model.device, end)
    engine.optimizer.zero_grad(set_to_none=True)
    return told(found | {"budget": stage.micro_batch_tokens}, peak)


def engines_section(tree: dict[str, Any]) -> Any:
    """Keys as attributes."""
    from nvembed.training.job import section

    return section(tree)


if __name__ == "__main__":
    sys.exit(main())
