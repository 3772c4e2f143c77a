"""Training texts that stand in the test split of their own dataset: by their words, case and punctuation aside.

Only the same words count. Within one dataset different texts are often nearly alike ("set an alarm for seven", "… for
eight"), and to drop those would take from training what the task is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from nvembed.data.columns import text_key
from nvembed.data.decontamination import Cleaned, Dropped
from nvembed.data.example import Example
from nvembed.data.overlap import plain_words

RULE = "test split"


class HeldOut:
    """The texts of a source's test split, as digests.

    Args:
        name: the source. texts: the test split's.
        labels: whether the source's documents are labels' texts, which may stand anywhere.
    """

    def __init__(self, name: str, texts: Iterable[str], *, labels: bool) -> None:
        self._name, self._labels = name, labels
        self._keys = np.unique(np.fromiter((_key(text) for text in texts), np.uint64))

    def __len__(self) -> int:
        return len(self._keys)

    def clean(self, examples: Sequence[Example]) -> Cleaned:
        """The examples without those texts: a query or positive takes its example along, a negative goes alone."""
        if not len(self):
            return Cleaned(list(examples))
        cleaned = Cleaned()
        for example in examples:
            hits = [field for field in self._checked(example) if self._holds(field[1])]
            cleaned.dropped += [self._dropped(example, *hit) for hit in hits]
            if any(name != "negative" for name, _ in hits):
                continue
            gone = {text for _, text in hits}
            kept = tuple(text for text in example.negatives if text not in gone)
            cleaned.examples.append(replace(example, negatives=kept) if gone else example)
        return cleaned

    def _checked(self, example: Example) -> list[tuple[str, str]]:
        if self._labels:
            return [("query", example.query)]
        negatives = (("negative", text) for text in example.negatives)
        return [("query", example.query), ("positive", example.positive), *negatives]

    def _holds(self, text: str) -> bool:
        key = np.uint64(_key(text))
        place = int(np.searchsorted(self._keys, key))
        return place < len(self._keys) and self._keys[place] == key

    def _dropped(self, example: Example, field: str, text: str) -> Dropped:
        return Dropped(example.id, example.source, field, RULE, 1.0, f"{self._name}: {RULE}", text, text)


def _key(text: str) -> int:
    return text_key(plain_words(text))
