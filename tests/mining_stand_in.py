"""Small dataset folders to mine, and a teacher of two layers."""

from __future__ import annotations

from pathlib import Path

from nvembed.core.artifacts import write_manifest
from nvembed.data import Example, write_corpus, write_examples
from nvembed.recipe import Mining

TEACHER = "random:mistral-tiny"
TOPICS = ["socket", "thread", "parser", "queue", "codec", "regular expression", "calendar", "archive"]
TEXTS = [
    f"{verb} the {topic} {how}" for topic in TOPICS for verb in ("Open", "Close", "Copy") for how in ("", "at once")
]


def example(query: str, positive: str, *negatives: str, task_type: str = "retrieval") -> Example:
    """One row."""
    return Example.make(
        task="docs", task_type=task_type, query=query, positive=positive, instruction="Find it",
        source="test", license="CC0-1.0", negatives=negatives,
    )  # fmt: skip


def dataset(folder: Path, examples: list[Example], corpus: list[str]) -> Path:
    """A dataset folder."""
    folder.mkdir()
    write_examples(folder, examples)
    write_corpus(folder, corpus)
    write_manifest(folder, kind="dataset", section={"source": "test"}, licenses={"test": "CC0-1.0"})
    return folder


def section(**values: object) -> Mining:
    """A mining section with the small teacher."""
    return Mining.model_validate({"teacher": {"backbone": TEACHER, "max_length": 64}, "num_negatives": 3, **values})
