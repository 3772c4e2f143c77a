"""What an epoch holds of each dataset, to the example, and that batches keep to the rules whatever the mixture is."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from nvembed.core.errors import UserError
from nvembed.data.batches import BatchSampler
from nvembed.data.example import Example
from nvembed.data.lengths import Lengths, example_tokens
from nvembed.recipe import Batches

TYPES = ["retrieval", "classification"]


def make(number: int, task: str, source: str, task_type: str = "retrieval", **texts: Any) -> Example:
    texts = {"query": f"{task} {source} query {number}", "positive": f"{task} {source} text {number}", **texts}
    return Example.make(
        task=task, task_type=task_type, instruction="Find it", source=source, license="none", **texts
    )  # fmt: skip


def mix(**sizes: int) -> list[Example]:
    """So many examples of each task, its source named after it, in turns."""
    rows = [make(number, task, f"{task}-source") for task, size in sizes.items() for number in range(size)]
    return random.Random(1).sample(rows, len(rows))


def sampler(examples: list[Example], batch_size: int = 8, seed: int = 3, **keys: Any) -> BatchSampler:
    return BatchSampler(examples, batch_size, seed, TYPES, Batches(**keys))


def quotas(made: BatchSampler) -> dict[str, int]:
    return {dataset.task: dataset.quota for dataset in made.datasets}


def epoch(made: BatchSampler, number: int) -> list[list[Example]]:
    steps = made.steps_per_epoch
    return [made.batch(step) for step in range(number * steps, (number + 1) * steps)]


def drawn(made: BatchSampler, number: int) -> Counter[str]:
    return Counter(example.id for batch in epoch(made, number) for example in batch)


def of_task(counts: Counter[str], examples: list[Example], task: str) -> list[int]:
    return [counts[example.id] for example in examples if example.task == task]


MIXES: list[dict[str, Any]] = [
    {},
    {"weights": {"small": 7.3, "large": 0.4}},
    {"caps": {"large": 33}, "weights": {"small": 3}},
    {"temperature": 3.0},
    {"mode": "one-dataset"},
    {"mode": "one-dataset", "weights": {"small": 2.5}, "temperature": 2.0},
    {"group_by_length": True, "weights": {"small": 2}},
    {"distinct_texts": True},
]


@pytest.mark.parametrize("keys", MIXES, ids=str)
def test_a_step_asked_for_alone_is_the_step_of_the_whole_run(keys: dict[str, Any]) -> None:
    examples = mix(small=10, large=80)
    whole = sampler(examples, **keys)
    steps = 2 * whole.steps_per_epoch + 3
    batches = [whole.batch(step) for step in range(steps)]
    for step in (0, whole.steps_per_epoch, steps - 1, 1):
        assert sampler(examples, **keys).batch(step) == batches[step]
    assert sampler(examples, seed=4, **keys).batch(0) != batches[0]


@pytest.mark.parametrize("keys", MIXES, ids=str)
def test_a_batch_never_holds_an_example_twice(keys: dict[str, Any]) -> None:
    made = sampler(mix(small=10, large=80), **keys)
    for step in range(4 * made.steps_per_epoch):
        batch = made.batch(step)
        assert len({example.id for example in batch}) == len(batch) == 8


def test_plain_keys_take_every_example_once() -> None:
    assert quotas(sampler(mix(a=30, b=12, c=6))) == {"a": 30, "b": 12, "c": 6}


def test_a_weight_multiplies_a_datasets_share_and_zero_leaves_it_out() -> None:
    made = sampler(mix(a=30, b=12, c=6), weights={"b": 2.5, "c-source": 0})
    assert quotas(made) == {"a": 30, "b": 30, "c": 0}
    assert {example.task for step in range(20) for example in made.batch(step)} == {"a", "b"}


def test_an_upweighted_dataset_repeats_evenly_within_an_epoch_and_over_epochs() -> None:
    examples = mix(small=10, large=77)  # 23 + 77 examples: no rest is left out
    made = sampler(examples, batch_size=10, weights={"small": 2.3})
    total: Counter[str] = Counter()
    for number in range(7):
        counts = drawn(made, number)
        assert sum(of_task(counts, examples, "small")) == 23
        assert set(of_task(counts, examples, "small")) == {2, 3}
        assert set(of_task(counts, examples, "large")) == {1}
        total += counts
    seen = of_task(total, examples, "small")
    assert max(seen) - min(seen) <= 1, "7 epochs of 23 are 16.1 times each"


def test_a_cap_draws_other_examples_each_epoch_until_all_were_seen() -> None:
    examples = mix(capped=50, other=30)
    made = sampler(examples, batch_size=10, caps={"capped": 20})
    total: Counter[str] = Counter()
    for number in range(5):
        counts = drawn(made, number)
        assert sum(of_task(counts, examples, "capped")) == 20
        assert set(of_task(counts, examples, "other")) == {1}
        total += counts
    assert set(of_task(total, examples, "capped")) == {2}, "5 epochs of 20 out of 50"


def test_a_cap_on_a_source_holds_for_all_its_tasks_together() -> None:
    rows = [make(i, "a", "wide") for i in range(60)] + [make(i, "b", "wide") for i in range(31)]
    rows += [make(i, "c", "narrow") for i in range(10)]
    assert quotas(sampler(rows, caps={"wide": 20})) == {"a": 13, "b": 7, "c": 10}
    assert quotas(sampler(rows, caps={"wide": 20, "a": 5})) == {"a": 5, "b": 20, "c": 10}, "a goes by its task's name"
    assert quotas(sampler(rows, caps={"wide": 1})) == {"a": 1, "b": 0, "c": 10}, "never more than the cap"
    assert quotas(sampler(rows, caps={"wide": 200})) == {"a": 60, "b": 31, "c": 10}


def test_temperature_draws_by_a_root_of_the_size() -> None:
    examples = mix(a=900, b=100)
    assert quotas(sampler(examples, temperature=2)) == {"a": 750, "b": 250}, "shares 30 : 10"
    assert quotas(sampler(examples, temperature=1e9)) == {"a": 500, "b": 500}
    assert quotas(sampler(examples, temperature=2, weights={"b": 0.5}, caps={"a": 600})) == {"a": 600, "b": 125}


def test_a_dataset_with_any_weight_gives_one_example_at_least() -> None:
    assert quotas(sampler(mix(a=30, b=3), weights={"b": 0.01})) == {"a": 30, "b": 1}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weights": {"msmarko": 2}}, r"weights: 'msmarko' is no task .*\(did you mean 'msmarco'\?\); known: "),
        ({"caps": {"nothing-like-it": 2}}, r"caps: 'nothing-like-it' .* examples; known: msmarco, msmarco-source"),
        ({"weights": {"nq": 60}}, r"batches: an epoch of 22 steps would hold examples of nq \(nq-source\) 60 times"),
        ({"weights": {"msmarco": 0, "nq": 0}}, "batch_size 8: only 0 training examples"),
        ({"mode": "one-dataset"}, r"one-dataset: nq \(nq-source\) has 2 examples, 2 an epoch, .* weights.nq=0"),
        ({"mode": "one-dataset", "caps": {"msmarco": 7}}, "msmarco-source. has 60 examples, 7 an epoch"),
    ],
)  # fmt: skip
def test_a_mixture_that_cannot_be_is_refused(keys: dict[str, Any], message: str) -> None:
    examples = [make(i, "msmarco", "msmarco-source") for i in range(60)] + [
        make(i, "nq", "nq-source") for i in range(2)
    ]
    with pytest.raises(UserError, match=message):
        sampler(examples, **keys)


def test_one_dataset_a_batch_in_an_order_that_changes_with_the_epoch() -> None:
    examples = mix(a=50, b=21, c=9)
    made = sampler(examples, mode="one-dataset")
    assert made.steps_per_epoch == 6 + 2 + 1
    turns = []
    for number in range(8):
        batches = epoch(made, number)
        assert all(len({example.task for example in batch}) == 1 for batch in batches)
        turns.append([batch[0].task for batch in batches])
        assert Counter(turns[-1]) == {"a": 6, "b": 2, "c": 1}
    assert len({tuple(turn) for turn in turns}) == 8


def test_one_dataset_a_batch_leaves_out_other_examples_each_epoch() -> None:
    examples = mix(a=50, b=9)
    made = sampler(examples, mode="one-dataset")
    total: Counter[str] = sum((drawn(made, number) for number in range(9)), Counter())
    assert set(of_task(total, examples, "b")) == {8}, "9 epochs, 8 of 9 each"
    assert set(of_task(total, examples, "a")) <= {8, 9}, "9 epochs, 48 of 50 each"


@pytest.mark.parametrize("seed", range(12))
def test_even_where_there_is_hardly_room_no_batch_holds_an_example_twice(seed: int) -> None:
    """Datasets of few examples, each as often as there are batches: only exchanges between batches get there."""
    draw = random.Random(seed)
    size, copies = draw.randint(2, 9), draw.randint(2, 9)
    made = sampler(mix(a=size), batch_size=size, seed=seed, weights={"a": copies})
    assert made.steps_per_epoch == copies
    for batch in epoch(made, 0):
        assert len({example.id for example in batch}) == size, "each batch is the whole dataset"


def test_examples_with_a_text_in_common_are_kept_apart_if_asked() -> None:
    rows = [make(i, "a", "s", query=f"query {i // 4}", positive=f"text {i % 40}") for i in range(160)]

    def double(made: BatchSampler) -> int:
        batches = [batch for number in range(4) for batch in epoch(made, number)]
        return sum(len(b) - len({getattr(e, name) for e in b}) for b in batches for name in ("query", "positive"))

    assert double(sampler(rows)) > 50
    assert double(sampler(rows, distinct_texts=True)) == 0


def test_texts_that_stand_in_every_batch_are_left_as_they_are() -> None:
    rows = [make(i, "a", "s", query=f"query {i // 2}", positive=f"label {i % 2}") for i in range(160)]
    made = sampler(rows, distinct_texts=True)
    for batch in epoch(made, 0):
        assert len({example.query for example in batch}) == 8


def test_batches_by_length_spare_padding_and_still_hold_every_example_once() -> None:
    draw = random.Random(0)
    rows = [make(i, "a", "s", positive="word " * draw.randint(1, 300)) for i in range(800)]
    padded = {}
    for grouped in (False, True):
        made = sampler(rows, group_by_length=grouped)
        batches = epoch(made, 0)
        assert Counter(example.id for batch in batches for example in batch) == Counter(row.id for row in rows)
        padded[grouped] = sum(8 * max(len(example.positive) for example in batch) for batch in batches)
        longest = [max(len(example.positive) for example in batch) for batch in batches]
        assert longest != sorted(longest) and longest != sorted(longest, reverse=True)
    real = sum(len(row.positive) for row in rows)
    assert padded[True] < 1.1 * real
    assert padded[False] > 1.5 * real


def test_an_examples_tokens_are_estimated_with_instructions_cut_texts_and_the_negatives_in_use() -> None:
    example = make(0, "a", "s", "classification", query="q" * 40, positive="é" * 20, negatives=("n" * 400, "n" * 4))
    around = len("Instruct: Find it\nQuery: ")
    lengths = Lengths(negatives=1, query_max_length=64, document_max_length=50)
    assert example_tokens(example, lengths) == (around + 40) // 4 + 2 + (around + 40) // 4 + 2 + 50
