"""How many examples of each dataset an epoch holds, and which.

A dataset is what the examples of one task from one source make. With n examples in it and N in all datasets together,
an epoch holds, of the dataset,

    x = weight · N · n^(1/temperature) / Σ n^(1/temperature)       the sum over all datasets; plain: x = n
    q = x rounded, but at least 1 if x is above 0;
    q = x · cap / Σ x   where Σ x, over the datasets that go by the cap's name, is above the cap: rounded by largest
                        remainders, so that they hold as many as the cap says together;

and with batches of one dataset, the whole batches of that: q ← batch_size · ⌊q / batch_size⌋.

Each example occurs ⌊q/n⌋ or ⌈q/n⌉ times. Which ones occur once more goes round: the q mod n of an epoch follow, in an
order of the dataset that the seed decides, on those of the epoch before. So a cap draws other examples each epoch, and
over any number of epochs no example of a dataset occurs oftener than another by more than one.
"""

from __future__ import annotations

import difflib
import random
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nvembed.core.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """The examples of one task from one source. `rows` are their places, (n,) int; `quota` is an epoch's count."""

    task: str
    source: str
    task_type: str
    rows: np.ndarray
    quota: int

    @property
    def name(self) -> str:
        """What messages and random orders call it."""
        return f"{self.task} ({self.source})"

    @property
    def most(self) -> int:
        """How often its most frequent examples occur in an epoch."""
        return -(-self.quota // len(self.rows))


def datasets_of(
    codes: Sequence[np.ndarray], names: Sequence[Sequence[str]], keys: Batches, batch_size: int
) -> list[Dataset]:
    """The datasets of some examples, in the order in which they first occur, with their quotas.

    Args:
        codes: task, source and task type of each example, (n,) int each.
        names: what the codes stand for.
        keys: mode, weights, caps and temperature.
        batch_size: examples of a batch.

    Raises:
        UserError: a name in weights or caps that is no task or source here, or batches of one dataset from one that
            does not fill any.
    """
    tasks, sources, types = codes
    _, first, which = np.unique(tasks * np.int64(len(names[1])) + sources, return_index=True, return_inverse=True)
    order = np.argsort(first)
    found = [
        (names[0][tasks[first[k]]], names[1][sources[first[k]]], names[2][types[first[k]]], np.flatnonzero(which == k))
        for k in order
    ]
    _check_names(keys, [(task, source) for task, source, _, _ in found])
    quotas = _quotas(found, keys)
    if keys.mode == "one-dataset":
        quotas = [_whole_batches(d, quota, keys, batch_size) for d, quota in zip(found, quotas, strict=True)]
    return [Dataset(*dataset, quota) for dataset, quota in zip(found, quotas, strict=True)]


@dataclass(frozen=True)
class Batches:
    """The keys of the recipe's section of that name, which say more of each."""

    mode: str = "blended"
    weights: Mapping[str, float] | None = None
    caps: Mapping[str, int] | None = None
    temperature: float = 1.0
    distinct_texts: bool = False
    group_by_length: bool = False

    @classmethod
    def of(cls, section: object) -> Batches:
        """The recipe's section, typed or as a rank has it, where mappings have become attributes (`Job`)."""
        keys = dict(vars(section))
        for name in ("weights", "caps"):
            keys[name] = keys[name] if isinstance(keys[name], Mapping) else vars(keys[name])
        return cls(**keys)


class Walk:
    """The examples of each epoch, and how often: counts by place. Holds the orders that remainders go round in."""

    def __init__(self, datasets: Sequence[Dataset], seed: int) -> None:
        self.orders = {
            dataset.name: shuffled(len(dataset.rows), f"{seed}/{dataset.name}")
            for dataset in datasets
            if dataset.quota % len(dataset.rows)
        }

    def rows(self, dataset: Dataset, epoch: int) -> np.ndarray:
        """Places of an epoch's examples of a dataset, rising, repeated ones beside each other: (quota,) int."""
        times, rest = divmod(dataset.quota, len(dataset.rows))
        counts = np.full(len(dataset.rows), times)
        if rest:
            window = (epoch * rest + np.arange(rest)) % len(dataset.rows)
            counts[self.orders[dataset.name][window]] += 1
        return np.repeat(dataset.rows, counts)


def shuffled(count: int, seed: str) -> np.ndarray:
    """The numbers below `count` in an order that the seed alone decides: (count,) int32.

    This is Python's own shuffle of a list of them, without the list's memory.
    """
    order = array("i", range(count))
    random.Random(seed).shuffle(order)  # type: ignore[arg-type]  # any sequence that can be written to
    return np.frombuffer(order, dtype=np.int32) if count else np.zeros(0, dtype=np.int32)


def _lookup(named: Mapping[str, float] | None, task: str, source: str) -> str | None:
    """The name by which a dataset goes in weights or caps: its task's before its source's."""
    return next((name for name in (task, source) if name in (named or {})), None)


def _check_names(keys: Batches, datasets: Iterable[tuple[str, str]]) -> None:
    known = list(dict.fromkeys(name for pair in datasets for name in pair))
    for key, given in (("weights", keys.weights), ("caps", keys.caps)):
        for name in given or {}:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                meant = f" (did you mean {near[0]!r}?)" if near else ""
                raise UserError(
                    f"batches.{key}: {name!r} is no task or source of the stage's examples{meant}; "
                    f"known: {', '.join(known)}"
                )


def _quotas(found: Sequence[tuple[str, str, str, np.ndarray]], keys: Batches) -> list[int]:
    sizes = np.array([len(rows) for *_, rows in found], dtype=float)
    weights = [(keys.weights or {}).get(_lookup(keys.weights, t, s) or "", 1.0) for t, s, _, _ in found]
    wanted = sizes if keys.temperature == 1 else sizes ** (1 / keys.temperature)
    wanted = np.array(weights) * (wanted * sizes.sum() / wanted.sum() if keys.temperature != 1 else wanted)
    quotas = np.where(wanted > 0, np.maximum(np.floor(wanted + 0.5), 1), 0).astype(int)
    caps = [_lookup(keys.caps, task, source) for task, source, _, _ in found]
    for name in dict.fromkeys(name for name in caps if name):
        members = np.flatnonzero([name == cap for cap in caps])
        cap = (keys.caps or {})[name]
        if wanted[members].sum() > cap:
            quotas[members] = _apportion(cap, wanted[members])
    return [int(quota) for quota in quotas]


def _apportion(total: int, shares: np.ndarray) -> np.ndarray:
    """`total` as whole numbers in proportion to the shares, by largest remainders."""
    exact = shares * total / shares.sum()
    parts = np.floor(exact).astype(int)
    most = np.argsort(parts - exact, kind="stable")[: total - parts.sum()]
    parts[most] += 1
    return parts


def _whole_batches(dataset: tuple[str, str, str, np.ndarray], quota: int, keys: Batches, batch_size: int) -> int:
    task, source, _, rows = dataset
    if quota and min(quota, len(rows)) < batch_size:
        name = _lookup(keys.weights, task, source) or task
        raise UserError(
            f"batches.mode one-dataset: {task} ({source}) has {len(rows)} examples, {quota} an epoch, which fill no "
            f"batch of {batch_size}; lower batch_size, raise its weight or cap, or leave it out by weights.{name}=0"
        )
    return batch_size * (quota // batch_size)
