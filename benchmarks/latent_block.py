"""The latent block at the published size, folded against plain: time, memory, and values against float64.

    python benchmarks/latent_block.py --out benchmarks/results/latent_block.json

The size is that of the published checkpoint: width 4096, 512 latents, 8 heads of width 4096, ff_mult 4; random weights,
3 GB in float32. The compared forms take turns, and each figure is a median. Needs 12 GB of memory; a quarter of an hour
on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import describe, heading
from torch import Tensor
from torch.nn import functional

from nvembed.modeling import LatentAttention

DIM, LATENTS, HEADS = 4096, 512, 8


def main() -> None:
    """Run all parts, print them, and keep them if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a forward pass (4096)")
    parser.add_argument("--train-tokens", type=int, nargs="*", default=[1024, 4096], help="of forward and backward")
    parser.add_argument("--repeats", type=int, default=5, help="of each form, after one warm-up (5)")
    parser.add_argument("--train-repeats", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args()
    print(heading(), flush=True)
    facts: dict[str, Any] = {"machine": describe(), "shape": {"dim": DIM, "latents": LATENTS, "heads": HEADS}}
    torch.manual_seed(0)
    block = LatentAttention(DIM, num_latents=LATENTS, num_heads=HEADS, head_dim=DIM).eval().to(asked.device)
    facts["float64"] = against_float64(block)
    facts["forward"] = [forward(block, asked.tokens, asked.repeats, precision) for precision in asked.precisions]
    block.float()
    facts["training"] = [
        training(block, tokens, asked.train_repeats, precision)
        for precision in asked.precisions
        for tokens in asked.train_tokens
    ]
    facts["memory"] = memory(block)
    facts["load_at_the_end"] = describe()["load"]
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(facts, indent=2) + "\n")


def alternating(forms: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, list[float]]:
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


def told(what: str, seconds: dict[str, list[float]], baseline: str) -> dict[str, Any]:
    """Print medians and ratios to `baseline`; the same as a dictionary."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: medians[baseline] / value for name, value in medians.items() if name != baseline}
    print(f"\n{what}")
    for name, value in medians.items():
        faster = f"  {ratios[name]:5.2f}×" if name in ratios else ""
        spread = f"{min(seconds[name]):.3f} to {max(seconds[name]):.3f}"
        print(f"  {name:34} {value:9.3f} s  ({spread}){faster}", flush=True)
    return {"what": what, "seconds": seconds, "median": medians, "ratio": ratios}


@torch.no_grad()
def forward(block: LatentAttention, tokens: int, repeats: int, precision: str) -> dict[str, Any]:
    """Inference: the attention sub-layer alone, and the whole block. Weights and states are in `precision`."""
    block.to(getattr(torch, precision))
    device = block.latents.device
    hidden = torch.randn(tokens, DIM, device=device, dtype=block.latents.dtype)
    attend: Any = block.cross_attend_blocks[0]
    block._fold = None
    began = time.perf_counter()
    fold = block._folded()
    fold_seconds = time.perf_counter() - began
    keys, values = attend.fn._keys_and_values(attend.norm_context(block.latents))

    def plain_with_kept_keys() -> Tensor:
        query = attend.fn._by_head(attend.fn.to_q(attend.norm(hidden)))
        mixed = functional.scaled_dot_product_attention(query, keys, values)
        return attend.fn.to_out(mixed.transpose(0, 1).flatten(1))

    def whole(folded: bool) -> Tensor:
        block.folded = folded
        return block(hidden)

    attention = {
        "plain": lambda: attend(hidden, block.latents),
        "plain, keys and values kept": plain_with_kept_keys,
        "folded": lambda: fold(attend.norm(hidden)),
    }
    both = {"plain": lambda: whole(False), "folded": lambda: whole(True)}
    result = {
        "precision": precision,
        "tokens": tokens,
        "attention": told(
            f"forward, {precision}, {tokens} tokens: cross attention", alternating(attention, repeats, device), "plain"
        ),
        "block": told(f"forward, {precision}, {tokens} tokens: block", alternating(both, repeats, device), "plain"),
        "fold_seconds": fold_seconds,
    }
    block.folded = None
    print(f"  folding once took {fold_seconds:.2f} s")
    return result


def training(block: LatentAttention, tokens: int, repeats: int, precision: str) -> dict[str, Any]:
    """Forward and backward of the whole block, folded anew in each pass; float32 weights, `precision` by autocast."""
    block.train().requires_grad_()
    device = block.latents.device
    hidden = torch.randn(tokens, DIM, device=device, requires_grad=True)

    def step(folded: bool) -> None:
        block.folded = folded
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            out = block(hidden)
        out.float().square().mean().backward()
        block.zero_grad(set_to_none=True)
        hidden.grad = None

    forms = {"plain": lambda: step(False), "folded": lambda: step(True)}
    what = f"forward and backward, {precision}, {tokens} tokens: block"
    result = told(what, alternating(forms, repeats, device), "plain")
    block.folded = None
    chosen = "folded" if block.folding_pays(tokens) else "plain"
    print(f"  training uses the {chosen} form here")
    block.eval().requires_grad_(False)
    return {"precision": precision, "tokens": tokens, "chosen": chosen, **result}


@torch.no_grad()
def against_float64(block: LatentAttention, tokens: int = 64) -> dict[str, Any]:
    """Greatest error of the attention sub-layer in float32, over the greatest value, against one in float64."""
    hidden = torch.randn(tokens, DIM, device=block.latents.device)
    attend: Any = block.cross_attend_blocks[0]
    truth = attention_in_float64(block, hidden)
    found = {"plain": attend(hidden, block.latents), "folded": block._folded()(attend.norm(hidden))}
    errors = {name: float((value - truth).abs().max() / truth.abs().max()) for name, value in found.items()}
    print(f"\nfloat32 against float64, {tokens} tokens, cross attention: greatest error over greatest value")
    for name, error in errors.items():
        print(f"  {name:34} {error:.1e}", flush=True)
    return {"tokens": tokens, "relative_error": errors}


def attention_in_float64(block: LatentAttention, hidden: Tensor) -> Tensor:
    """The published formula, written out head by head: no more than a head's weights are in float64 at once."""

    def norm(rows: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
        rows = rows.double()
        centred = rows - rows.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt()
        return scaled * layer.weight.double() + layer.bias.double()

    attend: Any = block.cross_attend_blocks[0]
    states, context = norm(hidden, attend.norm), norm(block.latents, attend.norm_context)
    inner = attend.fn.to_q.weight.shape[0]
    width = inner // HEADS
    total = torch.zeros_like(states)
    for start in range(0, inner, width):
        part = slice(start, start + width)
        keys = context @ attend.fn.to_kv.weight[part].double().T
        values = context @ attend.fn.to_kv.weight[inner + start : inner + start + width].double().T
        scores = (states @ attend.fn.to_q.weight[part].double().T) @ keys.T / width**0.5
        weights = (scores - scores.max(-1, keepdim=True).values).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        total += (weights @ values) @ attend.fn.to_out.weight[:, part].double().T
    return total


def memory(block: LatentAttention) -> dict[str, Any]:
    """Parameters and resident memory before and after dropping what inference does not need."""
    counts, resident = [count(block)], [resident_gb()]
    block.drop_unfolded()
    counts.append(count(block))
    resident.append(resident_gb())
    print(f"\nkept for inference: {counts[0] / 1e6:.1f} M → {counts[1] / 1e6:.1f} M parameters of the block")
    if None not in resident:
        print(f"  resident memory of this process {resident[0]:.2f} → {resident[1]:.2f} GB (float32)")
    return {"parameters": counts, "resident_gb": resident}


def count(block: LatentAttention) -> int:
    """Numbers that the block holds, its fold included once it is all that is left."""
    return sum(tensor.numel() for tensor in block.state_dict().values())


def resident_gb() -> float | None:
    """Memory that this process has in use now, in GB; None where /proc does not tell."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e9


if __name__ == "__main__":
    main()
