"""Documents of made-up words: text to ask about that nobody has to think up."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from nvembed.recipe import Synthesis

WORDS = [a + b + c for a in "bdfgklmn" for b in "aeiou" for c in ("lor", "mar", "nis", "rat", "sul", "tev")]
Make = Callable[..., Synthesis]


def sentences(draw: random.Random, number: int) -> str:
    return " ".join(" ".join(draw.choices(WORDS, k=12)).capitalize() + "." for _ in range(number))


def write_documents(folder: Path, documents: int = 6, sections: int = 4) -> Path:
    """Markdown files of `sections` sections with about a hundred words each: as many passages."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(1)
    for number in range(documents):
        parts = "\n\n".join(f"## Part {part}\n\n{sentences(draw, 8)}" for part in range(sections))
        (folder / f"document-{number}.md").write_text(f"# Document {number}\n\n{parts}\n", encoding="utf-8")
    return folder
