"""A user's file, split so that nothing leaks: pairs that share a query or a passage, or nearly do, stay together.

Such pairs form connected components; dev and test take whole components. Retrieval pairs alone are held out to be
measured: examples of labelled or similarity tasks that hang together with one of them are dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nvembed.core.digests import digest_text
from nvembed.core.errors import UserError
from nvembed.data.example import Pair
from nvembed.data.near_copies import NearCopies
from nvembed.data.splits import Split, fewest_queries, generator, held_out_sizes, take_groups

if TYPE_CHECKING:
    from nvembed.recipe import Data

MEASURED = frozenset({"retrieval", "pair"})
"""Task types of a file whose pairs can be held out as retrieval queries."""


@dataclass(frozen=True, slots=True)
class PairKey:
    """What the split needs to know of a pair: digests of its texts, and whether it can be measured."""

    query: bytes
    positive: bytes
    measured: bool

    @classmethod
    def of(cls, pair: Pair) -> PairKey:
        """Texts that differ in case or white space alone have one digest."""
        query, positive = (bytes.fromhex(digest_text(plain(text)))[:16] for text in (pair.query, pair.positive))
        return cls(query, positive, pair.task_type in MEASURED)


def plain(text: str) -> str:
    """A text in lower case with single spaces."""
    return " ".join(text.casefold().split())


def split_file(pairs: Sequence[Pair], data: Data) -> Split:
    """Divide the pairs of a file. Raises UserError if there are too few, or if they all hang together."""
    groups = _Groups()
    keys = [PairKey.of(pair) for pair in pairs]
    for one, other in _near_links(pairs, keys, data):
        groups.join(one, other)
    dev, test = choose_components(keys, data, groups)
    dropped: Counter[str] = Counter()
    parts: dict[str, list[Pair]] = {"train": [], "dev": [], "test": []}
    for number, (pair, key) in enumerate(zip(pairs, keys, strict=True)):
        part = "test" if number in test else "dev" if number in dev else "train"
        if part == "train" or key.measured:
            parts[part].append(pair)
        else:
            dropped[f"{part}: {pair.task_type} example beside a held-out pair"] += 1
    train = _without_held_out_negatives(parts["train"], [*parts["dev"], *parts["test"]], data, dropped)
    return Split(tuple(train), tuple(parts["dev"]), tuple(parts["test"]), dropped=dict(sorted(dropped.items())))


def choose_components(keys: Sequence[PairKey], data: Data, groups: _Groups | None = None) -> tuple[set[int], set[int]]:
    """Numbers of the dev pairs and of the test pairs, whole components each.

    Args:
        keys: one a pair.
        data: how much is held out, and the seed.
        groups: texts that hang together beside those that stand in one pair (near copies).

    Raises:
        UserError: too few measured queries, or components too large to hold any out.
    """
    groups = groups or _Groups()
    for key in keys:
        groups.join(key.query, key.positive)
    members: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        members.setdefault(groups.find(key.query), []).append(number)
    queries: dict[Hashable, set[Hashable]] = {
        group: {keys[number].query for number in numbers if keys[number].measured} for group, numbers in members.items()
    }
    queries = {group: measured for group, measured in queries.items() if measured}
    total = len(set().union(*queries.values()))
    needed = fewest_queries(data)
    if total < needed:
        raise UserError(
            f"data.path: {data.path}: {total} different queries are too few: {needed} are needed to hold out "
            f"{data.min_test_queries} for test; give more rows or lower data.min_test_queries"
        )
    order = list(queries)
    generator(data, "components").shuffle(order)
    dev_size, test_size = held_out_sizes(data, total)
    test = take_groups(order, queries, test_size)
    dev = take_groups([group for group in order if group not in test], queries, dev_size) if test is not None else None
    if test is None or dev is None or total - sum(len(queries[group]) for group in (*test, *dev)) < needed / 4:
        largest = max(map(len, queries.values()))
        raise UserError(
            f"data.path: {data.path}: {test_size} test and {dev_size} dev queries cannot be held out: {largest} of "
            f"{total} queries hang together through passages that are equal or nearly so; give more varied rows"
        )
    return _numbers(dev, members), _numbers(test, members)


class _Groups:
    """Union-find over digests of texts."""

    def __init__(self) -> None:
        self._parent: dict[bytes, bytes] = {}

    def find(self, item: bytes) -> bytes:
        root = item
        while (parent := self._parent.setdefault(root, root)) != root:
            root = parent
        while item != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def join(self, one: bytes, other: bytes) -> None:
        """Put two items' groups together; the root is the one that came first in the order of digests."""
        first, second = sorted((self.find(one), self.find(other)))
        self._parent[second] = first


def _numbers(taken: set[Hashable], members: dict[Hashable, list[int]]) -> set[int]:
    return {number for group in taken for number in members[group]}


def _near_links(pairs: Sequence[Pair], keys: Sequence[PairKey], data: Data) -> Iterable[tuple[bytes, bytes]]:
    """Digests of texts that nearly copy each other."""
    texts: dict[bytes, str] = {}
    for pair, key in zip(pairs, keys, strict=True):
        texts.setdefault(key.query, pair.query)
        texts.setdefault(key.positive, pair.positive)
    index: NearCopies[bytes] = NearCopies(data.near_copy_threshold)
    for digest, text in texts.items():
        for other in index.copies_of(text):
            yield digest, other
        index.add(digest, text)


def _without_held_out_negatives(
    train: Sequence[Pair], held_out: Sequence[Pair], data: Data, dropped: Counter[str]
) -> list[Pair]:
    """Training pairs whose given negatives nearly copy no held-out text."""
    index: NearCopies[None] = NearCopies(data.near_copy_threshold)
    for text in dict.fromkeys(text for pair in held_out for text in (pair.query, pair.positive)):
        index.add(None, text)
    cleaned = []
    for pair in train:
        kept = tuple(text for text in pair.negatives if text not in index)
        dropped["train: negative that nearly copies a held-out text"] += len(pair.negatives) - len(kept)
        cleaned.append(pair if len(kept) == len(pair.negatives) else replace(pair, negatives=kept))
    return cleaned
