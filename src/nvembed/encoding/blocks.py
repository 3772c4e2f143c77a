"""Vectors of a large collection of texts, kept in the state block by block.

Which texts make a block follows from the texts alone: those whose keys (digests) begin with the same bits. So a block's
vectors are the same whoever makes it and in whatever order, a collection shared by two datasets is embedded once, and
one that has grown a little costs the blocks that changed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Unpack

import numpy as np

from nvembed.core.progress import Progress
from nvembed.encoding.encode import Options, kept_vectors, made_by, plan_cached
from nvembed.encoding.parts import Parts

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel

BLOCK_TEXTS = 8192
"""A block holds half as many to as many on average: the rest of one is what a kill costs."""


def cut_blocks(keys: np.ndarray) -> list[slice]:
    """Where the blocks of a collection lie.

    Args:
        keys: (n,) uint64, sorted, each once: digests of the texts.

    Returns:
        Slices of `keys` that follow each other, none empty.
    """
    bits = max(0, int(np.ceil(np.log2(max(1, len(keys)) / BLOCK_TEXTS))))
    inner = np.arange(1, 1 << bits, dtype=np.uint64) << np.uint64(64 - bits) if bits else np.empty(0, np.uint64)
    bounds = [0, *np.searchsorted(keys, inner).tolist(), len(keys)]
    return [slice(start, stop) for start, stop in pairwise(bounds) if stop > start]


def encode_blocks(
    model: NVEmbedModel,
    keys: np.ndarray,
    texts: Callable[[slice], Sequence[str]],
    *,
    prefix: str = "",
    only: Callable[[int], bool] = lambda number: True,
    **options: Unpack[Options],
) -> Parts:
    """The vectors of a collection in the order of its keys; what the state has already is not made again.

    Args:
        model: what embeds; vectors are kept by its fingerprint, what decides them, and the keys.
        keys: (n,) uint64, sorted, each once: digests of the texts.
        texts: gives the texts of a slice of `keys`.
        prefix: stands before each text.
        only: which blocks, by number; the others are left out of what is returned.
        options: as of `encode`.

    Raises:
        UserError: as `encode`.
    """
    from nvembed.modeling.encoder import TextEncoder, encode_distinct, open_encoder

    plan = plan_cached(model, **options)
    blocks = [block for number, block in enumerate(cut_blocks(keys)) if only(number)]
    sizes = [block.stop - block.start for block in blocks]
    made = made_by(model, plan, "") | {"before": prefix}  # once: the weights are read for it
    progress, files = Progress(options.get("label", "embedding"), sum(sizes)), []
    encoder: TextEncoder | None = None
    with contextlib.ExitStack() as stack:
        for done, block in zip(np.cumsum([0, *sizes]).tolist(), blocks, strict=False):

            def make(block: slice = block, done: int = done) -> np.ndarray:
                nonlocal encoder
                encoder = encoder or stack.enter_context(open_encoder(model, plan, options.get("devices")))
                whole = [prefix + text for text in texts(block)]
                return encode_distinct(encoder, whole, lambda now: progress.update(done + now))

            digest = hashlib.sha256(np.ascontiguousarray(keys[block], dtype="<u8").tobytes()).hexdigest()
            files.append(kept_vectors({**made, "texts": digest}, make))
            progress.update(done + block.stop - block.start)
    empty = plan.empty(0)
    return Parts(files, sizes, empty.shape[1], empty.dtype.name)
