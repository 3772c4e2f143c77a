"""Packed texts against padded ones on a GPU: tokens per second, and their share of what the chip can multiply.

    python benchmarks/packed.py --save

A backbone of Mistral-7B's shape with random weights in bf16, made on the GPU, looking both ways, mean pooling; texts of
mixed lengths up to 512 tokens, on the GPU beforehand. Encoding is a forward pass over all texts; training adds the
backward pass to LoRA adapters, as a stage of a recipe computes it. Padded batches come in two forms: by length,
as this project fills them, and in the order of the texts. Only the texts' own tokens count, padding does not. The peak
is that of plain bf16 products, measured in the same run. Needs a GPU of 80 GiB; `--layers` and `--checkpointing` take
less.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import ROOT, describe, heading
from torch import Tensor, nn

from nvembed import NVEmbedModel
from nvembed.modeling.batching import token_batches, tokens_held
from nvembed.text import Tokenized

MISTRAL_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
}
TINY = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
PACKED, SORTED, ARRIVING = "packed", "padded, by length", "padded, in order"
SHAPES = [(8192, 8192, 8192), (16384, 4096, 14336), (16384, 14336, 4096)]
Batch = tuple[Tensor, Tensor, Tensor]


def main() -> int:
    """Measure, print, and keep the figures if asked; the exit code: 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=512, help="texts to encode (512)")
    parser.add_argument("--tokens", type=int, default=16384, help="token budget of a batch (16384)")
    parser.add_argument("--train-texts", type=int, default=128, help="texts of a training step (128)")
    parser.add_argument("--train-tokens", type=int, default=4096, help="token budget of a chunk in training (4096)")
    parser.add_argument("--layers", type=int, help="layers of the backbone (32)")
    parser.add_argument("--lora", type=int, default=16, help="rank of the adapters; 0: no training (16)")
    parser.add_argument("--checkpointing", action="store_true", help="recompute layers in the backward pass")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU, to try the script")
    results = ROOT / "benchmarks" / "results" / "packed.json"
    parser.add_argument("--save", "--out", type=Path, nargs="?", const=results, help="keep the figures as JSON")
    asked = parser.parse_args()
    if not asked.tiny and not torch.cuda.is_available():
        print("benchmarks/packed.py needs a CUDA GPU; --tiny tries the script on a CPU", file=sys.stderr)
        return 2
    device = torch.device("cpu" if asked.tiny else "cuda")
    print(heading(), flush=True)
    facts: dict[str, Any] = {"machine": describe(), "settings": settings(asked)}
    facts["gemm_peak"] = gemm_peak(device, asked.repeats)
    model = build(asked, device)
    facts["encoding"] = encoding(model, asked, facts["gemm_peak"])
    if asked.lora:
        facts["training"] = training(model, asked, facts["gemm_peak"])
    if asked.save:
        asked.save.parent.mkdir(parents=True, exist_ok=True)
        asked.save.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return 0


def settings(asked: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, without paths."""
    return {name: value for name, value in vars(asked).items() if name != "save"}


def gemm_peak(device: torch.device, repeats: int) -> float:
    """Floating-point operations per second of the fastest of some large products, in the precision measured here."""
    tiny = device.type == "cpu"
    best = 0.0
    for rows, inner, columns in [(256, 256, 256)] if tiny else SHAPES:
        dtype = torch.float32 if tiny else torch.bfloat16
        one, other = torch.randn(rows, inner, device=device, dtype=dtype), torch.randn(inner, columns, device=device)
        other = other.to(dtype)
        seconds = timed({"": lambda one=one, other=other: [one @ other for _ in range(20)]}, repeats, device)[""]
        best = max(best, 20 * 2 * rows * inner * columns / statistics.median(seconds))
    print(f"\nplain products: {best / 1e12:.1f} TFLOP/s", flush=True)
    return best


def build(asked: argparse.Namespace, device: torch.device) -> NVEmbedModel:
    """An embedding model over a random Mistral that looks both ways."""
    from transformers import AutoConfig, AutoModel

    from nvembed.modeling.attention import set_attention
    from nvembed.modeling.random_backbone import byte_tokenizer
    from nvembed.modeling.spec import Spec

    shape = TINY if asked.tiny else MISTRAL_7B
    layers = asked.layers or shape["num_hidden_layers"]
    config = AutoConfig.for_model("mistral", **{**shape, "num_hidden_layers": layers}, sliding_window=None)
    torch.manual_seed(0)
    with device:
        backbone = AutoModel.from_config(config, dtype=torch.float32 if asked.tiny else torch.bfloat16)
    set_attention(backbone.eval(), "bidirectional")
    model = NVEmbedModel(backbone, byte_tokenizer(), Spec(pooling="mean", attention="bidirectional"))
    return model.requires_grad_(False).eval()


def mixed_texts(count: int, asked: argparse.Namespace) -> list[Tokenized]:
    """Random tokens; lengths log-normal about 100, from 8 to 512 (tiny: an eighth of that)."""
    draw = random.Random(0)
    shrink = 8 if asked.tiny else 1
    texts = []
    for _ in range(count):
        length = min(max(int(draw.lognormvariate(4.6, 0.9)), 8), 512) // shrink
        texts.append(Tokenized([draw.randrange(3, 259) for _ in range(length)], [True] * length))
    return texts


def batches(model: NVEmbedModel, texts: list[Tokenized], budget: int, form: str) -> tuple[list[Batch], list[list[int]]]:
    """All texts in one form, on the device; and which texts each batch holds."""
    lengths = [len(text.input_ids) for text in texts]
    packed = form == PACKED
    rows = list(in_order(lengths, budget)) if form == ARRIVING else token_batches(lengths, budget, packed=packed)
    made = [model.collate([texts[row] for row in some], packed=packed) for some in rows]
    held = tokens_held(lengths, rows, packed=packed) / sum(lengths)
    print(f"  {form:20}{len(rows):5} batches, {held:.2f} tokens computed for each of a text's own", flush=True)
    return [tuple(part.to(model.device) for part in batch) for batch in made], rows  # type: ignore[misc]


def in_order(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Texts as they come, rows × longest row within the budget."""
    batch: list[int] = []
    for index, length in enumerate(lengths):
        longest = max([length, *(lengths[i] for i in batch)])
        if batch and (len(batch) + 1) * longest > budget:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def encoding(model: NVEmbedModel, asked: argparse.Namespace, peak: float) -> dict[str, Any]:
    """A forward pass over all texts in each form."""
    count = 24 if asked.tiny else asked.texts
    texts = mixed_texts(count, asked)
    print(f"\nencoding, {count} texts of {sum(len(text.input_ids) for text in texts)} tokens")
    if not asked.tiny and not model.packs():
        raise SystemExit("this model packs nothing on this GPU: see the warning above, if any")
    made = {form: batches(model, texts, asked.tokens, form) for form in (PACKED, SORTED, ARRIVING)}
    vectors: dict[str, Tensor] = {}

    @torch.inference_mode()
    def run(form: str) -> None:
        found, rows = made[form]
        vectors[form] = torch.zeros(len(texts), model.dim, device=model.device)
        for batch, some in zip(found, rows, strict=True):
            vectors[form][some] = model(*batch)

    facts = measured({form: partial(run, form) for form in made}, asked.repeats, model.device)
    operations = sum(forward_operations(model, len(text.input_ids)) for text in texts)
    return told(facts, texts, operations, peak) | {"least_cosine": agreement(vectors)}


def training(model: NVEmbedModel, asked: argparse.Namespace, peak: float) -> dict[str, Any]:
    """Forward and backward of one step's texts in each form, gradients to adapters in float32 alone."""
    from nvembed.modeling.lora import add_lora
    from nvembed.recipe.schema import LoRA

    add_lora(model.backbone, LoRA(enabled=True, rank=asked.lora, alpha=2 * asked.lora, dropout=0.0), seed=0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.to(model.device, torch.float32)
    if asked.checkpointing:
        model.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    count = 24 if asked.tiny else asked.train_texts
    texts = mixed_texts(count, asked)
    print(f"\ntraining, {count} texts of {sum(len(text.input_ids) for text in texts)} tokens, LoRA r{asked.lora}")
    target = torch.randn(model.dim, device=model.device, generator=torch.Generator(model.device).manual_seed(1))

    def run(made: list[Batch]) -> None:
        for parameter in trained:
            parameter.grad = None
        for batch in made:
            with nullcontext() if asked.tiny else torch.autocast("cuda", dtype=torch.bfloat16):
                found = model(*batch)
            (found @ target).sum().backward()

    budget = asked.train_tokens
    while True:
        made = {form: batches(model, texts, budget, form)[0] for form in (PACKED, SORTED, ARRIVING)}
        try:
            facts = measured({form: partial(run, made[form]) for form in made}, asked.repeats, model.device)
            break
        except torch.OutOfMemoryError:
            budget //= 2
            print(f"  out of memory: going on with --train-tokens {budget}", flush=True)
        torch.cuda.empty_cache()
    gradients = {}
    for form in (PACKED, SORTED):
        run(made[form])
        gradients[form] = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
    # frozen weights need no gradients of their own, so that a backward pass costs one forward pass, not two
    operations = (3 if asked.checkpointing else 2) * sum(forward_operations(model, len(t.input_ids)) for t in texts)
    similar = float(nn.functional.cosine_similarity(gradients[PACKED], gradients[SORTED], dim=0))
    found = told(facts, texts, operations, peak)
    print(f"  cosine between the gradients of packed texts and of padded ones: {similar:.6f}")
    return found | {"gradient_cosine": similar, "batch_tokens": budget}


def forward_operations(model: NVEmbedModel, length: int) -> float:
    """Floating-point operations of one text: two a token and weight of a linear layer, and those of attention."""
    config: Any = model.backbone.config
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    weights = sum(module.weight.numel() for name, module in model.backbone.named_modules() if is_base(name, module))
    return length * (2 * weights + 4 * config.num_hidden_layers * width * length)


def is_base(name: str, module: nn.Module) -> bool:
    """A linear layer of the backbone itself; adapters are not counted."""
    return type(module) is nn.Linear and "lora_" not in name


def measured(forms: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, dict[str, Any]]:
    """Seconds of each form, taking turns, and its peak memory, measured by itself."""
    peaks = {}
    for name, run in forms.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        run()
        peaks[name] = round(torch.cuda.max_memory_allocated() / 2**30, 2) if device.type == "cuda" else None
    seconds = timed(forms, repeats, device)
    return {name: {"seconds": seconds[name], "peak_gib": peaks[name]} for name in forms}


def timed(forms: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each form, taking turns, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(repeats + 1):
        for name, run in forms.items():
            began = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def told(facts: dict[str, dict[str, Any]], texts: list[Tokenized], operations: float, peak: float) -> dict[str, Any]:
    """Print the table; the same as a dictionary."""
    tokens = sum(len(text.input_ids) for text in texts)
    medians = {form: statistics.median(found["seconds"]) for form, found in facts.items()}
    print(f"  {'':20}{'tokens/s':>10}{'of peak':>9}{'packed is':>11}{'peak GiB':>10}")
    for form, seconds in medians.items():
        found = facts[form]
        found |= {"tokens_per_second": tokens / seconds, "share_of_peak": operations / seconds / peak}
        found["packed_is_faster_by"] = seconds / medians[PACKED]
        row = f"{found['tokens_per_second']:10.0f}{found['share_of_peak']:9.1%}{found['packed_is_faster_by']:10.2f}×"
        print(f"  {form:20}{row}{found['peak_gib'] or 0:10.1f}", flush=True)
    return {"texts": len(texts), "tokens": tokens, "forms": facts}


def agreement(vectors: dict[str, Tensor]) -> float:
    """The lowest cosine between a text's packed vector and its padded one."""
    least = float((vectors[PACKED] * vectors[SORTED]).sum(1).min())
    print(f"  least cosine between a packed text and the padded one: {least:.6f}")
    return least


if __name__ == "__main__":
    sys.exit(main())
