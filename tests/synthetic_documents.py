"""Documents of made-up words: text to ask about that nobody has to think up; and what is written about them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from nvembed.core.artifacts import write_manifest
from nvembed.data import Example, write_corpus, write_examples
from nvembed.data.evalsets import write_retrieval
from nvembed.data.example import Pair
from nvembed.data.store import text_schema, write_table
from nvembed.recipe import Synthesis
from nvembed.synthesis import RETRIEVAL

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


def synthetic_folders(
    folder: Path, pairs: Sequence[tuple[str, str]], held_out: Sequence[tuple[str, str]] = (), **about: bool
) -> tuple[Path, Path]:
    """Folders as `synthesize_data` writes them."""
    dataset, eval_sets = folder / "dataset", folder / "eval"
    examples = [
        Example.make(
            task=RETRIEVAL, task_type="retrieval", query=query, positive=positive, instruction="Find it",
            source="synthetic", license="cc0-1.0",
        )
        for query, positive in pairs
    ]  # fmt: skip
    write_examples(dataset, examples)
    write_corpus(dataset, [positive for _, positive in pairs])
    for name in ("report.html", "report.md", "report.png"):
        (dataset / name).write_text("synthetic", encoding="utf-8")
    write_table(dataset / "synthetic.parquet", [], text_schema())
    if held_out:
        write_retrieval(eval_sets / "test" / RETRIEVAL, [Pair(*pair) for pair in held_out], "Find it")
    for kind, place in (("dataset", dataset), ("eval", eval_sets)):
        write_manifest(
            place,
            kind=kind,
            section={"seed": 1},
            inputs={"documents": "1" * 64},
            counts={"train_examples": len(examples), "train_retrieval": len(examples)},
            licenses={"synthetic": "cc0-1.0"},
            headline={"data.train_examples": float(len(examples))} if kind == "dataset" else {},
            extra={"synthesis": {"enabled": True, "alone": False, **about}},
        )
    return dataset, eval_sets
