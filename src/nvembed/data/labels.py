"""Training examples of the symmetric tasks, by example-based labels: the positive is another text of the same class,
the negatives are texts of other classes (NV-Embed, arXiv 2405.17428, section 3.2)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from nvembed.data.example import Example, Pair


def passage_text(pair: Pair) -> str:
    """The text of a document in classification: its passage, which is the body of a docstring without its summary."""
    return pair.positive


def document_text(pair: Pair) -> str:
    """The text of a document in clustering: its summary and its passage."""
    return pair.document


TEXT_OF: Mapping[str, Callable[[Pair], str]] = {"classification": passage_text, "clustering": document_text}
"""What a document is to each labelled task."""


def example_based(
    classes: Mapping[str, Sequence[Pair]],
    *,
    task_type: str,
    instruction: str,
    negatives: int,
    source: str,
    license: str,
    generator: random.Random,
) -> list[Example]:
    """One example a document: a random other document of its class as positive, `negatives` of other classes.

    A text that stands in two classes says nothing of either and is left out, as are classes of fewer than two texts.
    """
    text_of = TEXT_OF[task_type]
    texts = {label: list(dict.fromkeys(text_of(pair) for pair in pairs)) for label, pairs in sorted(classes.items())}
    classes_with = Counter(text for members in texts.values() for text in members)
    texts = {label: [text for text in members if classes_with[text] == 1] for label, members in texts.items()}
    texts = {label: members for label, members in texts.items() if len(members) >= 2}
    if len(texts) < 2:
        return []
    examples = []
    for label, members in texts.items():
        others = [text for other, theirs in texts.items() if other != label for text in theirs]
        for query in members:
            positive = query
            while positive == query:
                positive = generator.choice(members)
            examples.append(
                Example.make(
                    task=task_type,
                    task_type=task_type,
                    query=query,
                    positive=positive,
                    negatives=tuple(generator.sample(others, min(negatives, len(others)))),
                    instruction=instruction,
                    source=source,
                    license=license,
                )
            )
    return examples
