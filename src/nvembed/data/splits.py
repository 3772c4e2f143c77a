"""What a split is, how large its parts are, and how whole groups are taken for them.

Dev and test take whole groups (modules, or pairs that hang together through a shared text), so that nothing leaks.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, TypeVar

from nvembed.data.example import Pair
from nvembed.data.near_copies import NearCopies

if TYPE_CHECKING:
    from nvembed.recipe import Data

G = TypeVar("G", bound=Hashable)


@dataclass(frozen=True)
class Split:
    """Pairs by use.

    `train` gives training and mining its text. `dev` and `test` are retrieval sets; `dev_documents` and
    `test_documents` are documents of classes that `train` has. `dropped` counts pairs by the rule that dropped them.
    """

    train: tuple[Pair, ...]
    dev: tuple[Pair, ...]
    test: tuple[Pair, ...]
    dev_documents: tuple[Pair, ...] = ()
    test_documents: tuple[Pair, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)

    def classes(self) -> dict[str, list[Pair]]:
        """The classes that are evaluated, with their training documents."""
        held = {pair.label for pair in (*self.dev_documents, *self.test_documents)}
        return {label: pairs for label, pairs in classes_of(self.train, 1).items() if label in held}


def held_out_sizes(data: Data, total: int) -> tuple[int, int]:
    """How many queries dev and test are to have where there are `total`."""
    least_dev, least_test = _least_sizes(data)
    test = max(ceil(data.test_fraction * total), least_test)
    dev = max(ceil(data.dev_fraction * total), least_dev) if data.dev_fraction else 0
    return dev, test


def fewest_queries(data: Data) -> int:
    """The fewest queries that can be split: the least that dev and test may have, and as many to train on."""
    return 2 * sum(_least_sizes(data))


def _least_sizes(data: Data) -> tuple[int, int]:
    return (ceil(data.min_test_queries / 2) if data.dev_fraction else 0), data.min_test_queries


def generator(data: Data, use: str) -> random.Random:
    """A random generator of its own for each use, so that one draw does not shift another."""
    return random.Random(f"{data.seed}/{use}")


def take_groups(order: Iterable[G], queries: Mapping[G, Collection[Hashable]], size: int) -> set[G] | None:
    """Groups, in the given order, with at least `size` different queries between them; None if that cannot be.

    Groups that would fill more than a sixth of the part are left to training unless it cannot be filled without.
    """
    order = list(order)
    for share in (6, 3, 1):
        taken: set[G] = set()
        different: set[Hashable] = set()
        for group in order:
            if len(different) >= size:
                break
            if len(queries[group]) <= max(size / share, 1):
                taken.add(group)
                different.update(queries[group])
        if len(different) >= size:
            return taken
    return None


def drop_near_copies(
    pairs: Iterable[Pair], held_out: Iterable[Pair], data: Data, reason: str, dropped: Counter[str]
) -> list[Pair]:
    """The pairs whose query, passage and both together nearly copy no such text that is held out."""
    index: NearCopies[None] = NearCopies(data.near_copy_threshold)
    for text in dict.fromkeys(text for pair in held_out for text in pair.texts):
        index.add(None, text)
    kept = []
    for pair in pairs:
        if any(text in index for text in pair.texts):
            dropped[reason] += 1
        else:
            kept.append(pair)
    return kept


def classes_of(pairs: Iterable[Pair], min_size: int) -> dict[str, list[Pair]]:
    """Label → pairs, for the labels that have at least `min_size`."""
    by_label: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_label[pair.label].append(pair)
    return {label: by_label[label] for label in sorted(by_label) if label and len(by_label[label]) >= min_size}
