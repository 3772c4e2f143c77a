"""The golden examples: of every source of the paper's recipes, the first one that comes of the stand-in.

`python tests/mix_golden.py` writes `tests/data/sources/golden.jsonl` anew; read the change before it is committed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mix_stand_in import write_stand_in

from nvembed.data.adapters import open_mix
from nvembed.recipe import load_recipe

GOLDEN = Path(__file__).parent / "data" / "sources" / "golden.jsonl"
GOLDEN_ROWS = 12
RECIPES = ("nvembed-v1", "nvembed-v2")


def first_examples(mirror: Path) -> Iterator[dict[str, Any]]:
    """Recipe, stages and the first finished example of every source, in the order of names."""
    for recipe in RECIPES:
        data = load_recipe(recipe, [f"data.hub_mirror={mirror}"]).data
        for reader in open_mix(data):
            example = next(iter(reader.examples()))
            yield {"recipe": recipe, "stages": reader.source.stages, **asdict(example)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            json.dumps(row, ensure_ascii=False) for row in first_examples(write_stand_in(Path(folder), GOLDEN_ROWS))
        ]
    GOLDEN.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{GOLDEN}: {len(lines)} examples")
