"""The first pass of a search: the best documents of each query by approximate scores, block by block.

A block of scores is never sorted. The greatest of every `GROUP` scores is compared with the query's weakest kept score,
and only groups that beat it are opened: after the first blocks few do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

GROUP = 32
_COLUMNS = 8192  # of a product at a time on a CPU
Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Scan:
    """The `keep` documents with the greatest approximate scores of each query, of those looked at so far.

    Attributes:
        scores: (q, keep) float32, best first, -inf where there were too few documents.
        numbers: (q, keep) int64, the documents; -1 where there were too few.
    """

    def __init__(self, queries: torch.Tensor, keep: int, product: Product = torch.mm) -> None:
        """`queries`: (q, dim), in the type that products are to be computed in. `product`: see `choose_product`."""
        self._queries, self._product = queries, product
        self._keep = keep
        self.scores = torch.full((len(queries), keep), -torch.inf, device=queries.device)
        self.numbers = torch.full((len(queries), keep), -1, dtype=torch.int64, device=queries.device)

    @property
    def edge(self) -> torch.Tensor:
        """(q,) what no document that was left out scores above; -inf while none was."""
        return self.scores[:, -1]

    def look(self, block: torch.Tensor, first: int) -> None:
        """Take documents `first`, `first + 1`, … into account: (n, dim), of the queries' type."""
        if not len(block):
            return
        scores = self._product(self._queries, block.T)
        if spare := -len(block) % GROUP:
            scores = torch.nn.functional.pad(scores, (0, spare), value=-torch.inf)
        groups = scores.shape[1] // GROUP
        # A group is every `groups`-th column, so that the maxima of neighbouring groups are taken side by side.
        greatest = scores.view(len(scores), GROUP, groups).amax(dim=1)
        columns = torch.arange(GROUP, device=scores.device) * groups
        # Every column in the scan's memory is a finite score: compare in the products' own type, which is exact.
        edge = self.edge.to(scores.dtype)
        if torch.isinf(edge).any():
            self._open_best(scores, greatest, columns, first)
        else:
            self._open_better(scores, greatest > edge[:, None], columns, edge, first)

    def _open_best(self, scores: torch.Tensor, greatest: torch.Tensor, columns: torch.Tensor, first: int) -> None:
        """The k greatest scores lie in the k groups with the greatest maxima."""
        opened = greatest.float().topk(min(self._keep, greatest.shape[1]), dim=1).indices
        inside = (opened[:, :, None] + columns).flatten(1)
        found = scores.gather(1, inside).float()
        best = found.topk(min(self._keep, found.shape[1]), dim=1)
        self._merge(best.values, inside.gather(1, best.indices) + first)

    def _open_better(
        self, scores: torch.Tensor, better: torch.Tensor, columns: torch.Tensor, edge: torch.Tensor, first: int
    ) -> None:
        rows, groups = better.nonzero(as_tuple=True)
        if not len(rows):
            return
        inside = groups[:, None] + columns
        found = scores[rows[:, None], inside]
        which, place = (found > edge[rows][:, None]).nonzero(as_tuple=True)
        rows = rows[which]
        counts = torch.bincount(rows, minlength=len(scores))
        places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        shape = (len(scores), int(counts.max()))
        values = torch.full(shape, -torch.inf, device=scores.device)
        numbers = torch.full(shape, -1, dtype=torch.int64, device=scores.device)
        values[rows, places] = found[which, place].float()
        numbers[rows, places] = inside[which, place] + first
        self._merge(values, numbers)

    def _merge(self, values: torch.Tensor, numbers: torch.Tensor) -> None:
        best = torch.cat([self.scores, values], dim=1).topk(self._keep, dim=1)
        self.scores = best.values
        self.numbers = torch.cat([self.numbers, numbers], dim=1).gather(1, best.indices)


def choose_product(queries: torch.Tensor, block: torch.Tensor) -> Product:
    """What multiplies matrices faster here: in float32 on a CPU torch has two libraries for it, BLAS and oneDNN.

    On some processors one is twice as fast as the other. The search's answer does not depend on which is taken.
    What a product returns holds until the next one.
    """
    known: list[Product] = [torch.mm]
    if queries.dtype == torch.float32 and queries.device.type == "cpu" and _has_onednn():
        known.append(_onednn)
    fastest = known[0]
    if len(known) > 1:
        fastest = min(known, key=lambda product: _seconds(product, queries[:256], block[:4096]))
    return fastest if queries.device.type != "cpu" else _Reused(fastest)


class _Reused:
    """Products into one place over and over: fresh memory for each would cost a page fault every 4 kB.

    oneDNN cannot be told where to write: it gives some columns at a time, still in the cache when they are copied.
    """

    def __init__(self, product: Product) -> None:
        self._product = product
        self._place = torch.empty(0)

    def __call__(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        rows, columns = len(one), other.shape[1]
        if self._place.numel() < rows * columns or self._place.dtype != one.dtype:
            self._place = one.new_empty(rows * columns)
        scores = self._place[: rows * columns].view(rows, columns)
        if self._product is torch.mm:
            return torch.mm(one, other, out=scores)
        for start in range(0, columns, _COLUMNS):
            part = slice(start, start + _COLUMNS)
            scores[:, part] = self._product(one, other[:, part])
        return scores


def _has_onednn() -> bool:
    settings: Any = torch.backends.mkldnn
    lowered = settings.matmul.fp32_precision not in ("none", "ieee")  # a user may allow bf16 inside
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise") and not lowered


@contextlib.contextmanager
def exact_sums() -> Iterator[None]:
    """On a GPU, float32 products without TF32, and bf16 ones that are summed in float32: what error bounds rest on."""
    flags = torch.backends.cuda.matmul
    before = flags.allow_tf32, flags.allow_bf16_reduced_precision_reduction
    flags.allow_tf32, flags.allow_bf16_reduced_precision_reduction = False, False
    try:
        yield
    finally:
        flags.allow_tf32, flags.allow_bf16_reduced_precision_reduction = before


def _onednn(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(n, dim) times (dim, m). The operator that torch's compiler calls; `torch.mm` never does."""
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(one, other.T, None, "none", [], "")
    return product


def _seconds(product: Product, queries: torch.Tensor, block: torch.Tensor) -> float:
    """The best of three, with what follows a product: libraries that get into each other's way are slow together."""
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        product(queries, block.T).amax(dim=1)
        taken.append(time.perf_counter() - started)
    return min(taken)
