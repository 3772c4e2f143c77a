"""Which texts of a batch a rank encodes, and which documents each of its queries is compared with.

Every rank knows the whole batch (the sampler is stateless), so all of this is computed alike on every rank and
nothing but vectors needs to travel. Texts that a rank needs more than once are encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from nvembed.data.lengths import Lengths, text_tokens
from nvembed.training.denominators import Classes, Column, TeacherScores, compare, has_in_batch
from nvembed.training.losses import Comparison

if TYPE_CHECKING:
    from nvembed.data import Example
    from nvembed.recipe import InBatch


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
    columns: list[Column]  # their rows are places among `documents`


def lay_out(
    batch: Sequence[Example],
    *,
    negatives: int,
    in_batch: InBatch,
    query_max_length: int,
    document_max_length: int,
    rank: int = 0,
    world: int = 1,
    classes: Classes | None = None,
    teacher: TeacherScores | None = None,
) -> Layout:
    """Divide a batch over ranks and say what is compared with what.

    Args:
        batch: the whole batch, the same on every rank.
        negatives: hard negatives used of each example; an example that has fewer is compared with fewer.
        in_batch: which queries are also compared with which of the other examples' documents, over all ranks.
        query_max_length: tokens of a query, instruction included.
        document_max_length: tokens of a document.
        rank: this rank.
        world: number of ranks; at most `len(batch)`.
        classes: known classes; what is of a query's own class is no negative of it.
        teacher: scores to learn from.
    """
    lengths = Lengths(negatives, query_max_length, document_max_length)
    texts = [texts_of(example, lengths) for example in batch]
    shares = [_share(texts, members) for members in deal(texts, world)]
    mine = shares[rank]
    together = any(has_in_batch(example, in_batch) for example in batch)
    gathered_rows = max(len(share.documents) for share in shares) if together and world > 1 else None
    seen = shares if together else [mine]
    columns = [
        replace(column, row=column.row + (index * gathered_rows if gathered_rows else 0))
        for index, share in enumerate(seen)
        for column in share.columns
    ]
    return Layout(
        texts=mine.texts,
        queries=torch.tensor(mine.queries),
        documents=torch.tensor(mine.documents),
        gathered_rows=gathered_rows,
        comparison=compare(batch, mine.examples, columns, in_batch, classes=classes, teacher=teacher),
        batch_size=len(batch),
    )


def texts_of(example: Example, lengths: Lengths) -> list[Text]:
    """An example's query, its positive and its hard negatives, as the model gets them."""
    documents = (example.positive, *example.negatives[: lengths.negatives])
    return [
        Text(example.query, example.query_instruction, lengths.query_max_length),
        *(Text(text, example.document_instruction, lengths.document_max_length) for text in documents),
    ]


def deal(texts: Sequence[Sequence[Text]], world: int) -> list[list[int]]:
    """Indices of each rank's examples, such that ranks encode like numbers of tokens.

    The longest example goes first, each to the rank that then has least (Graham 1969), a text that a rank has already
    costing it nothing; tokens are estimated (`data.lengths`). Ranks may get unlike numbers of examples, one at least:
    losses are summed and divided by the whole batch, and gathered documents are padded to the fullest rank.

    Args:
        texts: of each example.
        world: number of ranks; at most `len(texts)`.
    """
    if world == 1:
        return [list(range(len(texts)))]
    tokens = {text: text_tokens(text.instruction, text.text, text.max_length) for some in texts for text in some}
    lengths = [sum(tokens[text] for text in set(some)) for some in texts]
    hands: list[list[int]] = [[] for _ in range(world)]
    loads = [0] * world
    there: list[set[Text]] = [set() for _ in range(world)]
    for turn, index in enumerate(sorted(range(len(texts)), key=lambda i: (-lengths[i], i))):
        new = [sum(tokens[text] for text in {*texts[index]} - some) for some in there]
        rank = turn if turn < world else min(range(world), key=lambda r: (loads[r] + new[r], r))
        hands[rank].append(index)
        loads[rank] += new[rank]
        there[rank].update(texts[index])
    return [sorted(hand) for hand in hands]


def _share(texts: Sequence[Sequence[Text]], members: list[int]) -> _Share:
    """Collect the distinct texts of some examples. A query and a document of equal form share one text."""
    places: dict[Text, int] = {}
    documents: dict[int, int] = {}
    queries: list[int] = []
    columns: list[Column] = []
    for index in members:
        query, *own = texts[index]
        queries.append(places.setdefault(query, len(places)))
        for turn, document in enumerate(own):
            place = documents.setdefault(places.setdefault(document, len(places)), len(documents))
            columns.append(Column(index, place, document.text, is_positive=turn == 0))
    return _Share(members, list(places), queries, list(documents), columns)
