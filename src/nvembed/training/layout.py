"""Which texts of a batch a rank encodes, and which documents each of its queries is compared with.

Every rank knows the whole batch (the sampler is stateless), so all of this is computed alike on every rank and
nothing but vectors needs to travel. Texts that a rank needs more than once are encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from nvembed.training.losses import Comparison

if TYPE_CHECKING:
    from nvembed.data import Example


@dataclass(frozen=True)
class Text:
    """One text as the model gets it. Equal ones are encoded once."""

    text: str
    instruction: str
    max_length: int


@dataclass(frozen=True)
class Layout:
    """One rank's share of a batch.

    Attributes:
        texts: what this rank encodes, each once.
        queries: (b,) int64, the text of each of this rank's queries.
        documents: (d,) int64, the texts that are documents, each once.
        gathered_rows: the greatest d of all ranks if documents are gathered, else None.
        comparison: columns index the gathered documents (rank · gathered_rows + place), or the rank's own.
        batch_size: examples of the whole batch.
    """

    texts: list[Text]
    queries: torch.Tensor
    documents: torch.Tensor
    gathered_rows: int | None
    comparison: Comparison
    batch_size: int


@dataclass(frozen=True)
class _Share:
    """One rank's texts: its examples, its distinct texts, and for each example the places of its documents."""

    examples: list[int]
    texts: list[Text]
    queries: list[int]
    documents: list[int]
    columns: list[tuple[int, int, str]]  # example, place among `documents`, text; an example's first is its positive


def lay_out(
    batch: Sequence[Example],
    *,
    negatives: int,
    in_batch: bool,
    query_max_length: int,
    document_max_length: int,
    rank: int = 0,
    world: int = 1,
) -> Layout:
    """Divide a batch over ranks and say what is compared with what.

    Args:
        batch: the whole batch, the same on every rank.
        negatives: hard negatives used of each example; an example that has fewer is compared with fewer.
        in_batch: also compare with the other examples' documents, over all ranks.
        query_max_length: tokens of a query, instruction included.
        document_max_length: tokens of a document.
        rank: this rank.
        world: number of ranks; at most `len(batch)`.
    """
    shares = [
        _share(batch, members, negatives, query_max_length, document_max_length) for members in deal(batch, world)
    ]
    mine = shares[rank]
    gathered_rows = max(len(share.documents) for share in shares) if in_batch and world > 1 else None
    seen = shares if in_batch else [mine]
    columns = [
        (example, place + (index * gathered_rows if gathered_rows else 0), text)
        for index, share in enumerate(seen)
        for example, place, text in share.columns
    ]
    return Layout(
        texts=mine.texts,
        queries=torch.tensor(mine.queries),
        documents=torch.tensor(mine.documents),
        gathered_rows=gathered_rows,
        comparison=_compare(batch, mine.examples, columns, in_batch),
        batch_size=len(batch),
    )


def deal(batch: Sequence[Example], world: int) -> list[list[int]]:
    """Indices of each rank's examples: dealt there and back by falling length, so that ranks carry like loads."""
    if world == 1:
        return [list(range(len(batch)))]
    lengths = [len(e.query) + len(e.positive) + sum(map(len, e.negatives)) for e in batch]
    order = sorted(range(len(batch)), key=lambda i: (-lengths[i], i))
    hands: list[list[int]] = [[] for _ in range(world)]
    for turn, index in enumerate(order):
        seat = turn % (2 * world)
        hands[seat if seat < world else 2 * world - 1 - seat].append(index)
    return [sorted(hand) for hand in hands]


def _share(
    batch: Sequence[Example], members: list[int], negatives: int, query_max_length: int, document_max_length: int
) -> _Share:
    """Collect the distinct texts of some examples. A query and a document of equal form share one text."""
    places: dict[Text, int] = {}
    documents: dict[int, int] = {}
    queries: list[int] = []
    columns: list[tuple[int, int, str]] = []
    for index in members:
        example = batch[index]
        query = Text(example.query, example.query_instruction, query_max_length)
        queries.append(places.setdefault(query, len(places)))
        for text in [example.positive, *example.negatives[:negatives]]:
            document = Text(text, example.document_instruction, document_max_length)
            place = places.setdefault(document, len(places))
            columns.append((index, documents.setdefault(place, len(documents)), text))
    return _Share(members, list(places), queries, list(documents), columns)


def _compare(
    batch: Sequence[Example], rows: list[int], columns: list[tuple[int, int, str]], in_batch: bool
) -> Comparison:
    """The denominators of `rows`.

    Left out is every document whose text is that of an own positive: the positive of this example, or of another
    example that asks the same query.
    """
    numbers: dict[str, int] = {}
    texts = np.array([numbers.setdefault(text, len(numbers)) for _, _, text in columns])
    owners = np.array([owner for owner, _, _ in columns])
    first = {owner: column for column, owner in reversed(list(enumerate(owners.tolist())))}
    positives: dict[tuple[str, str], set[int]] = {}
    for example in batch:
        if example.positive in numbers:
            positives.setdefault((example.query, example.query_instruction), set()).add(numbers[example.positive])
    allowed = np.zeros((len(rows), len(columns)), dtype=bool)
    for row, index in enumerate(rows):
        own = positives[batch[index].query, batch[index].query_instruction]
        others = np.ones(len(columns), dtype=bool) if in_batch else owners == index
        allowed[row] = others & ~np.isin(texts, list(own))
        allowed[row, first[index]] = True
    return Comparison(
        columns=torch.tensor([place for _, place, _ in columns]),
        target=torch.tensor([first[index] for index in rows]),
        allowed=torch.from_numpy(allowed),
    )
