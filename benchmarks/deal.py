"""How evenly a batch's tokens fall on ranks: the fullest rank's tokens over the mean, for 2, 4 and 8 ranks.

    python benchmarks/deal.py --out benchmarks/results/deal.json

Examples are made of Python's documentation: a summary, its passage and seven other passages, of real and very uneven
lengths, cut at 512 tokens; tokens are those of a recipe's tokenizer, each text of a rank counted once, as training
encodes it. Compared are training's deal, which estimates tokens (`training.layout`), and there and back by falling
characters. What a rank waits for the fullest one is the figure less 1.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from machine import describe, heading

from nvembed.data import Example
from nvembed.data.lengths import Lengths, estimated_tokens, text_tokens
from nvembed.data.pydocs import read_python_docs
from nvembed.modeling import NVEmbedModel
from nvembed.recipe import load_recipe
from nvembed.training.layout import deal, texts_of

LENGTHS = Lengths(negatives=7, query_max_length=512, document_max_length=512)
Deal = Callable[[Sequence[Example], int], list[list[int]]]


def main() -> None:
    """Deal many batches each way and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="laptop", help="whose tokenizer counts")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args()
    print(heading(), flush=True)
    pairs = read_python_docs().pairs
    tokens = count_tokens([text for pair in pairs for text in (pair.query, pair.positive)], asked.recipe)
    errors = estimate_errors(tokens)
    print(f"\n{len(tokens)} texts; rms error of estimated tokens, of the mean:", errors)

    def by_estimate(batch: Sequence[Example], world: int) -> list[list[int]]:
        return deal([texts_of(example, LENGTHS) for example in batch], world)

    ways: dict[str, Deal] = {"training's": by_estimate, "characters": by_characters}
    rows = []
    print(f"\n{'batch':>5} {'ranks':>5}  " + "".join(f"{name + ' mean, worst':>26}" for name in ways))
    for size in (32, 128):
        batches = make_batches([(pair.query, pair.positive) for pair in pairs], size, asked.batches)
        for world in (2, 4, 8):
            found = {name: [imbalance(b, way(b, world), tokens) for b in batches] for name, way in ways.items()}
            print(f"{size:5} {world:5}  " + "".join(f"{np.mean(f):19.3f} {max(f):6.3f}" for f in found.values()))
            figures = {name: {"mean": float(np.mean(f)), "worst": max(f)} for name, f in found.items()}
            rows.append({"batch": size, "ranks": world, **figures})
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"machine": describe(), "recipe": asked.recipe, "errors": errors, "max_over_mean": rows}
        asked.out.write_text(json.dumps(facts, indent=2) + "\n")


def make_batches(pairs: Sequence[tuple[str, str]], size: int, count: int) -> list[list[Example]]:
    """Random pairs with seven random passages each."""
    draw = random.Random(0)
    passages = [passage for _, passage in pairs]
    return [
        [
            Example.make(
                task="docs", task_type="retrieval", query=query, positive=positive, instruction="", source="docs",
                license="PSF-2.0", negatives=tuple(draw.sample(passages, LENGTHS.negatives)),
            )
            for query, positive in draw.sample(pairs, size)
        ]
        for _ in range(count)
    ]  # fmt: skip


def estimate_errors(tokens: dict[str, int]) -> dict[str, float]:
    """Root mean square error over the mean of both estimates, each scaled to the right sum; texts that are not cut."""
    whole = {text: count for text, count in tokens.items() if count < 512}
    true = np.array(list(whole.values()))
    ways: dict[str, list[int]] = {
        "by bytes": [estimated_tokens(len(text.encode()), 512) for text in whole],
        "by bytes and others": [text_tokens("", text, 512) for text in whole],
    }
    scaled = {name: np.array(found) * true.sum() / sum(found) for name, found in ways.items()}
    return {name: round(float(np.sqrt(((s - true) ** 2).mean()) / true.mean()), 3) for name, s in scaled.items()}


def count_tokens(texts: Sequence[str], recipe: str) -> dict[str, int]:
    """Tokens of each different text, cut at 512."""
    different = list(dict.fromkeys(texts))
    model = NVEmbedModel.from_section(load_recipe(recipe).model)
    return {text: len(item.input_ids) for text, item in zip(different, model.tokenize(different, "", 512), strict=True)}


def strings(example: Example) -> tuple[str, ...]:
    """An example's texts."""
    return (example.query, example.positive, *example.negatives)


def imbalance(batch: Sequence[Example], hands: list[list[int]], tokens: dict[str, int]) -> float:
    """Tokens of the fullest rank over the mean of all; a rank encodes equal texts once."""
    loads = [sum(tokens[t] for t in {t for index in hand for t in strings(batch[index])}) for hand in hands]
    return max(loads) / float(np.mean(loads))


def by_characters(batch: Sequence[Example], world: int) -> list[list[int]]:
    """There and back over the ranks by falling characters."""
    lengths = [sum(map(len, strings(example))) for example in batch]
    hands: list[list[int]] = [[] for _ in range(world)]
    for turn, index in enumerate(sorted(range(len(batch)), key=lambda i: -lengths[i])):
        seat = turn % (2 * world)
        hands[min(seat, 2 * world - 1 - seat)].append(index)
    return hands


if __name__ == "__main__":
    main()
