"""Passages for dev and test, which give no training example: whole documents, or runs of passages of long ones."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from nvembed.core.digests import digest_text
from nvembed.data.near_copies import NearCopies

if TYPE_CHECKING:
    from nvembed.recipe import Synthesis
    from nvembed.synthesis.documents import Passage

LEFT_OUT = "left out"
_COPY = 0.5  # likeness (Jaccard, word 5-grams) from which a training passage counts as a copy of a held-out one
_LONGEST_RUN = 8


def split_passages(passages: Sequence[Passage], section: Synthesis) -> dict[str, str]:
    """Passage id → train, dev, test, or `LEFT_OUT` for what shares its words with a held-out passage.

    Passages beside a held-out one that share the overlap's words with it are left out, and so are those that nearly
    copy one. The draw goes by seed and the documents' names.
    """
    sizes = {
        "test": ceil(section.held_out.test * len(passages)),
        "dev": ceil(section.held_out.dev * len(passages)),
    }
    runs = _runs(
        passages,
        max(2, min(_LONGEST_RUN, min(size for size in sizes.values() if size) // 3)) if any(sizes.values()) else 1,
    )
    random.Random(f"{section.seed}/held out").shuffle(runs)
    split = {passage.id: "train" for passage in passages}
    for name, size in sizes.items():
        taken = 0
        while runs and taken < size:
            run = runs.pop()
            taken += len(run)
            split |= {passage.id: name for passage in run}
    _leave_out_copies(passages, split)
    return split


def _runs(passages: Sequence[Passage], longest: int) -> list[list[Passage]]:
    """Passages of one document that follow each other, at most `longest`, in an order of the names' digests."""
    documents: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        documents[passage.document].append(passage)
    runs = []
    for name in sorted(documents, key=digest_text):
        whole = documents[name]
        pieces = ceil(len(whole) / longest)
        size = ceil(len(whole) / pieces)
        runs += [whole[start : start + size] for start in range(0, len(whole), size)]
    return runs


def _leave_out_copies(passages: Sequence[Passage], split: dict[str, str]) -> None:
    index: NearCopies[str] = NearCopies(_COPY)
    for name in ("test", "dev"):  # dev may not copy test, and training neither
        held = [passage for passage in passages if split[passage.id] == name]
        for passage in held:
            if index.copies_of(passage.text):
                split[passage.id] = LEFT_OUT
        for passage in held:
            if split[passage.id] == name:
                index.add(name, passage.text)
    for passage in passages:
        if split[passage.id] == "train" and index.copies_of(passage.text):
            split[passage.id] = LEFT_OUT
    before: Passage | None = None
    for passage in passages:
        if before is not None and before.document == passage.document and passage.place == before.place + 1:
            pair = {split[before.id], split[passage.id]}
            if len(pair - {LEFT_OUT}) == 2 and _share_words(before.text, passage.text):
                # of dev and test the dev passage goes, of a held-out one and a training one the latter
                goes = "train" if "train" in pair else "dev"
                split[(before if split[before.id] == goes else passage).id] = LEFT_OUT
        before = passage


def _share_words(before: str, after: str, least: int = 8) -> bool:
    """Whether the end of one passage stands in the next."""
    tail = " ".join(before.split()[-least:])
    return tail in " ".join(after.split())
