"""Training examples of the symmetric tasks, by example-based labels: the positive is another text of the same class,
the negatives are texts of other classes (NV-Embed, arXiv 2405.17428, section 3.2)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

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
    texts = {label: [text_of(pair) for pair in pairs] for label, pairs in classes.items()}
    return [
        Example.make(
            task=task_type,
            task_type=task_type,
            query=drawn.query,
            positive=drawn.positive,
            negatives=drawn.negatives,
            instruction=instruction,
            source=source,
            license=license,
        )
        for drawn in draw_by_class(texts, negatives=negatives, generator=generator, dropped=Counter())
    ]


def draw_by_class(
    classes: Mapping[str, Sequence[str]], *, negatives: int, generator: random.Random, dropped: Counter[str]
) -> Iterator[Pair]:
    """Each text with a random other text of its class as positive and `negatives` of other classes.

    Args:
        classes: label → its texts.
        dropped: gets the number of texts that each rule leaves out: one that stands in two classes, one that is the
            only one of its class, and all if that leaves fewer than two classes.
    """
    texts = {label: list(dict.fromkeys(members)) for label, members in sorted(classes.items())}
    classes_with = Counter(text for members in texts.values() for text in members)
    dropped["text in two classes"] += sum(number for number in classes_with.values() if number > 1)
    texts = {label: [text for text in members if classes_with[text] == 1] for label, members in texts.items()}
    dropped["class with a single example"] += sum(len(members) == 1 for members in texts.values())
    texts = {label: members for label, members in texts.items() if len(members) >= 2}
    if len(texts) < 2:
        dropped["only one class"] += sum(len(members) for members in texts.values())
        return
    for label, members in texts.items():
        others = [text for other, theirs in texts.items() if other != label for text in theirs]
        for query in members:
            positive = query
            while positive == query:
                positive = generator.choice(members)
            yield Pair(query, positive, tuple(generator.sample(others, min(negatives, len(others)))), label=label)
