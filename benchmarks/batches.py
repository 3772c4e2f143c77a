"""What the rule of batches is worth on a CPU: batches filled to the budget, closed early, and packed.

    python benchmarks/batches.py --out benchmarks/results/batches.json

MiniLM encodes docstrings of mixed lengths, a few to many at a time. Processor seconds of one thread, so that other
programs matter little; the forms take turns, and each figure is a median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from encode import BACKBONE, corpus
from machine import describe, heading

from nvembed import NVEmbedModel
from nvembed.modeling.batching import autocast, token_batches, tokens_held
from nvembed.text import Tokenized

FILLED, CLOSED, PACKED = "filled", "closed early", "packed"


def main() -> None:
    """Measure, print a table, and keep the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, nargs="+", default=[32, 200, 1000], help="how many at a time")
    parser.add_argument("--tokens", type=int, default=16384, help="token budget of a batch (16384)")
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(heading(), flush=True)
    model = NVEmbedModel.from_card(BACKBONE)
    tokens = model.tokenize(corpus(max(asked.texts)))
    print(f"\n{'':10}{'texts':>6}  {'batches':14}{'count':>6}{'computed':>10}{'seconds':>9}{'× filled':>10}")
    found = []
    for precision in asked.precisions:
        with autocast(precision, model.device), torch.inference_mode():
            found += [measure(model, tokens[:count], precision, asked) for count in asked.texts]
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps({"machine": describe(), "found": found}, indent=2) + "\n")


def measure(model: NVEmbedModel, tokens: list[Tokenized], precision: str, asked: argparse.Namespace) -> dict[str, Any]:
    """All forms on the same texts; `computed`: tokens that a form computes for each of the texts' own."""
    lengths = [len(text.input_ids) for text in tokens]
    forms = {
        FILLED: filled(lengths, asked.tokens),
        CLOSED: token_batches(lengths, asked.tokens),
        PACKED: token_batches(lengths, asked.tokens, packed=True),
    }
    runs = {form: partial(encode, model, tokens, rows, packed=form == PACKED) for form, rows in forms.items()}
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for turn in range(asked.repeats + 1):
        for form, run in runs.items():
            began = time.process_time()
            run()
            if turn:
                seconds[form].append(time.process_time() - began)
    facts: dict[str, Any] = {"precision": precision, "texts": len(tokens), "tokens": sum(lengths), "forms": {}}
    for form, rows in forms.items():
        median = statistics.median(seconds[form])
        computed = tokens_held(lengths, rows, packed=form == PACKED) / sum(lengths)
        faster = statistics.median(seconds[FILLED]) / median
        facts["forms"][form] = {"batches": len(rows), "computed": computed, "seconds": seconds[form], "faster": faster}
        row = f"{len(rows):6}{computed:10.2f}{median:9.2f}{faster:10.2f}"
        print(f"{precision:10}{len(tokens):6}  {form:14}{row}", flush=True)
    return facts


def filled(lengths: list[int], budget: int) -> list[list[int]]:
    """Longest texts first, each batch filled as far as rows × longest row allows."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def encode(model: NVEmbedModel, tokens: list[Tokenized], rows: list[list[int]], *, packed: bool) -> None:
    """One pass over all batches."""
    for some in rows:
        model(*model.collate([tokens[row] for row in some], packed=packed))


if __name__ == "__main__":
    main()
