"""What the cases of `train_gpu.py` share: the model, the texts, and how a step is timed and told."""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from packed import MISTRAL_7B, TINY

from nvembed import NVEmbedModel
from nvembed.data import Example
from nvembed.modeling.lora import add_lora
from nvembed.training.peak import Work

TEXTS = 9  # of an example: a query, a positive, seven negatives
TEMPERATURE = 0.02


def free() -> None:
    """Give back what is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def build(asked: argparse.Namespace, device: torch.device, *, lora: bool = True) -> NVEmbedModel:
    """The embedding model as a recipe would train it: frozen weights bf16, trained ones float32."""
    from transformers import AutoConfig, AutoModel

    from nvembed.modeling.attention import set_attention
    from nvembed.modeling.random_backbone import byte_tokenizer
    from nvembed.modeling.spec import LatentSpec, Spec

    began = time.monotonic()
    shape = TINY if asked.tiny else MISTRAL_7B
    layers = asked.layers or shape["num_hidden_layers"]
    config = AutoConfig.for_model("mistral", **{**shape, "num_hidden_layers": layers}, sliding_window=None)
    latent = LatentSpec(num_latents=8, num_heads=2) if asked.tiny else LatentSpec()
    torch.manual_seed(0)
    with device:
        backbone = AutoModel.from_config(config, dtype=torch.float32 if asked.tiny else torch.bfloat16)
        block = latent.build(shape["hidden_size"])
        set_attention(backbone, "bidirectional")
        backbone.requires_grad_(False)
        if lora:
            options = SimpleNamespace(rank=16, alpha=32, dropout=0.0, targets="all-linear")
            add_lora(backbone, options, seed=0)  # type: ignore[arg-type]
    model = NVEmbedModel(backbone, byte_tokenizer(), Spec(latent=latent), latent=block)
    model.to(device)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    model.train()
    if asked.compile:
        for layer in backbone.layers:
            layer.compile(dynamic=True)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    whole = sum(parameter.numel() for parameter in model.parameters())
    print(f"{whole / 1e9:.2f} billion weights, {trained / 1e6:.0f} million trained; made in", end=" ")
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    return model


class Batches:
    """Made-up examples; a text has as many tokens as characters, two more for its frame."""

    def __init__(self, batch: int, tiny: bool) -> None:
        self._batch, self._shrink = batch, 8 if tiny else 1
        self.examples = self.batch(0)

    def batch(self, step: int) -> list[Example]:
        """The examples of a step."""
        draw = random.Random(step)

        def text() -> str:
            length = min(max(int(draw.lognormvariate(4.85, 0.6)), 16), 510) // self._shrink
            return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz ", k=length))

        made = []
        for place in range(self._batch):
            query, positive, *negatives = (text() for _ in range(TEXTS))
            ident = f"{step}-{place}"
            made.append(Example("made", "retrieval", query, positive, tuple(negatives), "", "", "", "", ident))
        return made


def tokenized(model: NVEmbedModel, examples: list[Example]) -> Work:
    """The work of a batch."""
    return Work.of(model.tokenize([text for e in examples for text in (e.query, e.positive, *e.negatives)]))


def measured(
    step: Callable[[int], dict[str, float]],
    shrink: Callable[[], int],
    work_of: Callable[[int], Work],
    flops: Callable[[Work], float],
    asked: argparse.Namespace,
    device: torch.device,
    end: float,
) -> dict[str, Any]:
    """Seconds and tokens of each step after one that is not counted; with less budget where memory runs out."""
    found: dict[str, Any] = {"seconds": [], "tokens": [], "flops": [], "loss": []}
    number, taken = 0, 0
    while taken <= asked.steps and (time.monotonic() < end or taken <= 1):
        number += 1
        try:
            began = time.perf_counter()
            record = step(number)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - began
        except torch.OutOfMemoryError:
            record = None
        if record is None:  # out of the except clause, whose traceback holds the tensors
            free()
            print(f"  out of memory: going on with a budget of {shrink()}", flush=True)
            continue
        taken += 1
        work = work_of(number)
        print(f"  {'not counted: ' * (taken == 1)}{work.tokens} tokens in {seconds:.2f} s, loss {record['loss']:.4f}")
        sys.stdout.flush()
        if taken > 1:
            values = {"seconds": seconds, "tokens": work.tokens, "flops": flops(work), "loss": record["loss"]}
            for key, value in values.items():
                found[key].append(value)
    return found | {"peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None}


def told(found: dict[str, Any], peak: float) -> dict[str, Any]:
    """Print a case's figures; the same with rates."""
    rates = [tokens / seconds for tokens, seconds in zip(found["tokens"], found["seconds"], strict=True)]
    shares = [flops / seconds / peak for flops, seconds in zip(found["flops"], found["seconds"], strict=True)]
    found |= {"tokens_per_second": statistics.median(rates), "share_of_peak": statistics.median(shares)}
    print(f"  {found['tokens_per_second']:.0f} real tokens/s, {found['share_of_peak']:.1%} of the GEMM peak,", end=" ")
    print(f"peak memory {found['peak_gib'] or 0:.1f} GiB, budget {found['budget']}", flush=True)
    return found
