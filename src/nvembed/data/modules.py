"""Python's documentation, split by module.

Modules are divided first: test and dev modules give no text to training or mining. Classification and clustering need
classes that training has seen, so they hold out documents of the training modules. What nearly copies a held-out text
is dropped from training, and what nearly copies a test text is dropped from dev.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nvembed.core.errors import UserError
from nvembed.data.example import Pair
from nvembed.data.splits import Split, classes_of, drop_near_copies, generator, held_out_sizes, take_groups

if TYPE_CHECKING:
    from nvembed.recipe import Data


def split_modules(pairs: Sequence[Pair], data: Data) -> Split:
    """Divide pairs by their label (the module), then hold out documents of the training modules.

    Raises UserError if there are too few pairs or modules for the sizes asked for.
    """
    by_module = _modules(pairs, data)
    test_modules, dev_modules = _choose_modules(by_module, data)
    train_modules = set(by_module) - test_modules - dev_modules
    test, dev, train = (
        [pair for name in sorted(names) for pair in by_module[name]]
        for names in (test_modules, dev_modules, train_modules)
    )
    dropped: Counter[str] = Counter()
    dev = drop_near_copies(dev, test, data, "dev: near copy of test", dropped)
    train = drop_near_copies(train, [*test, *dev], data, "train: near copy of a dev or test module", dropped)
    train, dev_documents, test_documents = _hold_out_documents(train, data, dropped)
    return Split(
        tuple(train),
        tuple(dev),
        tuple(test),
        tuple(dev_documents),
        tuple(test_documents),
        dict(sorted(dropped.items())),
    )


def check_modules(pairs: Sequence[Pair], data: Data) -> None:
    """Raises UserError as `split_modules` does, without its work."""
    _choose_modules(_modules(pairs, data), data)


def _modules(pairs: Sequence[Pair], data: Data) -> dict[str, list[Pair]]:
    """Module → pairs, of those that `data.limit` leaves."""
    by_module: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_module[pair.label].append(pair)
    return by_module if data.limit is None else _sample_modules(by_module, data, data.limit)


def _choose_modules(by_module: dict[str, list[Pair]], data: Data) -> tuple[set[str], set[str]]:
    """Names of the test and of the dev modules."""
    total = sum(map(len, by_module.values()))
    dev_size, test_size = held_out_sizes(data, total)
    queries = {name: {pair.query for pair in pairs} for name, pairs in by_module.items()}
    order = sorted(by_module)
    generator(data, "modules").shuffle(order)
    test = take_groups(order, queries, test_size)
    dev = take_groups([name for name in order if name not in test], queries, dev_size) if test is not None else None
    if test is None or dev is None or 2 * (dev_size + test_size) > total:
        raise UserError(
            f"data: {test_size} test and {dev_size} dev queries cannot be held out of {total} pairs; "
            "lower data.min_test_queries or data.test_fraction, or raise data.limit"
        )
    return test, dev


def _sample_modules(by_module: dict[str, list[Pair]], data: Data, limit: int) -> dict[str, list[Pair]]:
    """Whole modules up to `limit` pairs, none with more than an eighth of it: a sample that still has classes."""
    names = sorted(by_module)
    generator(data, "limit").shuffle(names)
    most, left = max(limit // 8, 1), limit
    taken = {}
    for name in names:
        if left:
            taken[name] = by_module[name][: min(most, left)]
            left -= len(taken[name])
    return taken


def _hold_out_documents(
    train: list[Pair], data: Data, dropped: Counter[str]
) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Training pairs, dev documents and test documents; the latter two only of classes of `min_class_size` and more."""
    random = generator(data, "documents")
    dev: list[Pair] = []
    test: list[Pair] = []
    for members in classes_of(train, data.min_class_size).values():
        order = random.sample(members, len(members))
        tests = max(round(data.test_fraction * len(order)), 1)
        devs = max(round(data.dev_fraction * len(order)), 1) if data.dev_fraction else 0
        test += order[:tests]
        dev += order[tests : tests + devs]
    held = {*dev, *test}
    dev = drop_near_copies(dev, test, data, "dev: near copy of test", dropped)
    rest = [pair for pair in train if pair not in held]
    rest = drop_near_copies(rest, [*test, *dev], data, "train: near copy of a held-out document", dropped)
    taught = classes_of(rest, 2)  # near copies may have taken a class its training documents
    dropped["held out: class without training documents"] += sum(pair.label not in taught for pair in (*dev, *test))
    dev, test = ([pair for pair in part if pair.label in taught] for part in (dev, test))
    return rest, dev, test
