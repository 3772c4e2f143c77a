"""A batch whose queries see their own documents alone, taken group by group: one forward pass, no gradient cache.

Without in-batch negatives the loss of an example needs no other example, so examples are taken in groups that fit the
budget, each with its own backward pass, and gradients add up. That spares the gradient cache's second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from nvembed.training.layout import Layout

Held = Callable[[Sequence[int]], int]  # tokens that these texts take up together


@dataclass(frozen=True)
class Group:
    """Some of a rank's examples: which texts they need, and their share of the layout over those texts."""

    texts: list[int]
    layout: Layout


def groups_of(layout: Layout, held: Held, budget: int) -> list[Group] | None:
    """The examples of a rank in groups whose texts take up at most `budget` tokens, in order.

    None where that cannot be: some query is compared with another example's documents, or one example alone is too
    large.
    """
    documents = _own_documents(layout)
    if documents is None:
        return None
    groups: list[list[int]] = []
    kept: set[int] = set()
    for query, own in enumerate(documents):
        texts = {int(layout.queries[query]), *layout.documents[own].tolist()}
        if groups and held(sorted(kept | texts)) <= budget:
            groups[-1].append(query)
            kept |= texts
        elif held(sorted(texts)) > budget:
            return None
        else:
            groups.append([query])
            kept = texts
    return [_group(layout, torch.tensor(queries)) for queries in groups]


def _own_documents(layout: Layout) -> list[torch.Tensor] | None:
    """For each query the places of its documents; None if a query sees others'."""
    seen = layout.comparison
    if layout.gathered_rows is not None or bool((seen.allowed & ~seen.own).any()):
        return None
    return [seen.columns[own].unique() for own in seen.own]


def _group(layout: Layout, queries: torch.Tensor) -> Group:
    whole = layout.comparison
    columns = whole.own[queries].any(dim=0).nonzero()[:, 0]
    rows = whole.columns[columns].unique()
    texts = torch.cat([layout.queries[queries], layout.documents[rows]]).unique()
    comparison = replace(
        whole,
        columns=torch.searchsorted(rows, whole.columns[columns]),
        target=torch.searchsorted(columns, whole.target[queries]),
        allowed=whole.allowed[queries][:, columns],
        own=whole.own[queries][:, columns],
        teacher=None if whole.teacher is None else whole.teacher[queries][:, columns],
    )
    share = replace(
        layout,
        texts=[layout.texts[index] for index in texts.tolist()],
        queries=torch.searchsorted(texts, layout.queries[queries]),
        documents=torch.searchsorted(texts, layout.documents[rows]),
        comparison=comparison,
    )
    return Group(texts.tolist(), share)
