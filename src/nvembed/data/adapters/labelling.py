"""Labelled texts to examples: by the label's text, or by another example of the class (NV-Embed, section 4.2)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from nvembed.core.errors import UserError
from nvembed.data.adapters.shapes import Labelled
from nvembed.data.adapters.tally import Tally
from nvembed.data.example import Pair
from nvembed.data.labels import draw_by_class

if TYPE_CHECKING:
    from nvembed.recipe import Source

_SEEN = 1000  # different labels named beyond which a text is no label


class LabelTexts:
    """The labels of a source: which are known, and what each is called."""

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        given = source.labels
        self._texts = {str(number): text for number, text in enumerate(given)} if isinstance(given, list) else given
        self._values = set(self._texts.values())

    def known(self, record: Labelled) -> bool:
        """Whether the record's label is one of those the recipe names, if it names any."""
        return not self._texts or record.label in self._texts or record.label in self._values

    def text(self, record: Labelled) -> str:
        """The class in words. Raises UserError where only a number is known."""
        given = self._texts.get(record.label) or (record.label if record.label in self._values else "")
        if given and not _agree(given, record.name):
            raise UserError(
                f"source {self.name}: label {record.label} is {record.name!r} in the data but {given!r} in "
                f"data.sources.{self.name}.labels; put the labels in the data's order"
            )
        text = given or record.name or record.label
        if text.lstrip("-").isdigit():
            raise UserError(
                f"source {self.name}: label {record.label} has no text; name the labels in "
                f"data.sources.{self.name}.labels, or take label_rule: example-based"
            )
        return text.replace("_", " ")

    @property
    def named(self) -> list[str]:
        """The texts that the recipe names, in its order."""
        return [text.replace("_", " ") for text in self._texts.values()]


def _agree(given: str, there: str) -> bool:
    """Whether two names may mean the same class; a name that is a number, or none, says nothing."""
    one, other = ("".join(sign for sign in text.casefold() if sign.isalnum()) for text in (given, there))
    return not other or other.isdigit() or one.startswith(other) or other.startswith(one)


def usable(records: Iterable[Labelled], texts: LabelTexts, tally: Tally) -> Iterator[Labelled]:
    """The records whose labels are known; the others are unusable rows."""
    for record in records:
        if texts.known(record):
            yield record
        else:
            tally.bad(f"label {record.label!r} is outside its set")


def classes_of(records: Iterable[Labelled], texts: LabelTexts) -> list[str]:
    """The texts of all classes: those the recipe names, otherwise those that occur. Raises UserError beyond a limit."""
    if texts.named:
        return texts.named
    seen = dict[str, None]()
    for record in records:
        seen[texts.text(record)] = None
        if len(seen) > _SEEN:
            raise UserError(f"source {texts.name}: more than {_SEEN} labels; is the label column the right one?")
    return sorted(seen)


def by_label_text(
    records: Iterable[Labelled], classes: list[str], texts: LabelTexts, *, negatives: int, seed: str
) -> Iterator[Pair]:
    """Each text with its class in words as the positive, and other classes' words, drawn, as negatives."""
    generator = random.Random(f"{seed}/label texts")
    for record in records:
        right = texts.text(record)
        others = [text for text in classes if text != right]
        drawn = others if len(others) <= negatives else generator.sample(others, negatives)
        yield Pair(record.text, right, tuple(drawn), label=right)


def by_example(records: Iterable[Labelled], *, negatives: int, seed: str, tally: Tally) -> Iterator[Pair]:
    """Each text with another of its class as the positive and texts of other classes as negatives.

    Holds the texts in memory, which the source's cap bounds.
    """
    by_class: dict[str, list[str]] = {}
    for record in records:
        by_class.setdefault(record.label, []).append(record.text)
    classes: Mapping[str, list[str]] = by_class
    yield from draw_by_class(
        classes, negatives=negatives, generator=random.Random(f"{seed}/examples"), dropped=tally.now.dropped
    )
