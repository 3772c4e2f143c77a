"""What is held out of Python's documentation, so that nothing leaks.

Modules are divided first: test and dev modules give no text to training or mining. Classification and clustering need
classes that training has seen, so they hold out documents of the training modules. What nearly copies a held-out text
(as a query or as a passage) is dropped from training, and what nearly copies a test text is dropped from dev.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil

from nvembed.core.errors import UserError
from nvembed.data.example import Pair
from nvembed.data.near_copies import NearCopies

Drop = Callable[[str, int], None]


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


@dataclass(frozen=True)
class SplitRule:
    """How much is held out; the fields are those of the recipe's `data` section."""

    dev_fraction: float
    test_fraction: float
    min_test_queries: int
    min_class_size: int
    near_copy_threshold: float
    limit: int | None
    seed: int

    def held_out(self, total: int) -> tuple[int, int]:
        """How many queries of `total` dev and test are to have."""
        test = max(ceil(self.test_fraction * total), self.min_test_queries)
        dev = max(ceil(self.dev_fraction * total), ceil(self.min_test_queries / 2)) if self.dev_fraction else 0
        return dev, test

    def generator(self, use: str) -> random.Random:
        """A random generator of its own for each use, so that one draw does not shift another."""
        return random.Random(f"{self.seed}/{use}")


def split_modules(pairs: Sequence[Pair], rule: SplitRule) -> Split:
    """Divide pairs by their label (the module), then hold out documents of the training modules.

    Raises UserError if there are too few pairs or modules for the sizes asked for.
    """
    by_module: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_module[pair.label].append(pair)
    if rule.limit is not None:
        by_module = _sample_modules(by_module, rule)
    total = sum(map(len, by_module.values()))
    dev_size, test_size = rule.held_out(total)
    if 2 * (dev_size + test_size) > total:
        raise UserError(
            f"data: {dev_size} dev and {test_size} test queries cannot be held out of {total} pairs; "
            "lower data.min_test_queries or raise data.limit"
        )
    modules = sorted(by_module)
    rule.generator("modules").shuffle(modules)
    test_modules = _take_modules(modules, by_module, test_size, "test")
    modules = [name for name in modules if name not in test_modules]
    dev_modules = _take_modules(modules, by_module, dev_size, "dev")
    dropped: Counter[str] = Counter()
    test = [pair for name in sorted(test_modules) for pair in by_module[name]]
    dev = [pair for name in sorted(dev_modules) for pair in by_module[name]]
    train = [pair for name in sorted(set(modules) - dev_modules) for pair in by_module[name]]
    dev = drop_near_copies(dev, test, rule, "dev: near copy of test", dropped)
    train = drop_near_copies(train, [*test, *dev], rule, "train: near copy of a dev or test module", dropped)
    train, dev_documents, test_documents = _hold_out_documents(train, rule, dropped)
    return Split(tuple(train), tuple(dev), tuple(test), dev_documents, test_documents, dict(sorted(dropped.items())))


def drop_near_copies(
    pairs: Iterable[Pair], held_out: Iterable[Pair], rule: SplitRule, reason: str, dropped: Counter[str]
) -> list[Pair]:
    """The pairs whose query, passage and both together nearly copy no such text that is held out."""
    index: NearCopies[None] = NearCopies(rule.near_copy_threshold)
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


def _sample_modules(by_module: dict[str, list[Pair]], rule: SplitRule) -> dict[str, list[Pair]]:
    """Whole modules up to `limit` pairs, none with more than an eighth of it: a sample that still has classes."""
    assert rule.limit is not None
    names = sorted(by_module)
    rule.generator("limit").shuffle(names)
    most, left = max(rule.limit // 8, 1), rule.limit
    sample = {}
    for name in names:
        taken = by_module[name][: min(most, left)]
        if taken:
            sample[name] = taken
            left -= len(taken)
    return sample


def _take_modules(names: Sequence[str], by_module: dict[str, list[Pair]], size: int, split: str) -> set[str]:
    """Modules, in the given order, with at least `size` different queries between them.

    Modules that would fill more than a sixth of the split are left to training unless it cannot be filled without.
    """
    for share in (6, 3, 1):
        taken: set[str] = set()
        queries: set[str] = set()
        for name in names:
            if len(queries) >= size:
                return taken
            if len(by_module[name]) <= size / share:
                taken.add(name)
                queries.update(pair.query for pair in by_module[name])
        if len(queries) >= size:
            return taken
    raise UserError(
        f"data: {size} {split} queries cannot be held out; lower data.min_test_queries or data.{split}_fraction"
    )


def _hold_out_documents(
    train: list[Pair], rule: SplitRule, dropped: Counter[str]
) -> tuple[list[Pair], tuple[Pair, ...], tuple[Pair, ...]]:
    """Training pairs, dev documents and test documents; the latter two only of classes of `min_class_size` and more."""
    generator = rule.generator("documents")
    dev: list[Pair] = []
    test: list[Pair] = []
    for members in classes_of(train, rule.min_class_size).values():
        order = generator.sample(members, len(members))
        tests = max(round(rule.test_fraction * len(order)), 1)
        devs = max(round(rule.dev_fraction * len(order)), 1) if rule.dev_fraction else 0
        test += order[:tests]
        dev += order[tests : tests + devs]
    held = set(dev) | set(test)
    dev = drop_near_copies(dev, test, rule, "dev: near copy of test", dropped)
    rest = [pair for pair in train if pair not in held]
    rest = drop_near_copies(rest, [*test, *dev], rule, "train: near copy of a held-out document", dropped)
    return rest, tuple(dev), tuple(test)
