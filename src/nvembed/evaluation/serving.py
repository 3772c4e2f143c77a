"""What a model costs to serve: the time of one short query, passages a second, parameters, bytes of weights."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel

QUERY = "how do I read a large file line by line without loading it"
WORDS = "the file is read in small pieces and each piece is handed to the caller before the next one is asked for "
MOST_QUERIES, FEWEST_QUERIES, SECONDS = 50, 10, 3.0
DOCUMENTS = 32


def measure_serving(model: NVEmbedModel) -> dict[str, float]:
    """Encode one query again and again, and some passages of 100 words at once, on the device where the model lies.

    The query has no instruction: a model cut short may have no room for one.

    Returns:
        `query_ms_p50` and `query_ms_p95` (milliseconds), `documents_per_second`, `parameters` (LoRA's, which is merged
        at export, not counted), `size_mb` (10⁶ bytes of weights as they lie in memory).
    """
    words = (WORDS * 5).split()[:100]
    documents = [" ".join([*words[place:], *words[:place]]) for place in range(DOCUMENTS)]
    model.encode([QUERY] * 2)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < FEWEST_QUERIES or (len(times) < MOST_QUERIES and time.perf_counter() - started < SECONDS):
        begun = time.perf_counter()
        model.encode([QUERY])
        times.append(time.perf_counter() - begun)
    model.encode(documents[:2])
    begun = time.perf_counter()
    model.encode(documents)
    rate = DOCUMENTS / (time.perf_counter() - begun)
    weights = [weight for name, weight in model.named_parameters() if "lora_" not in name]
    return {
        "query_ms_p50": round(1000 * float(np.median(times)), 2),
        "query_ms_p95": round(1000 * float(np.quantile(times, 0.95)), 2),
        "documents_per_second": round(rate, 1),
        "parameters": float(sum(weight.numel() for weight in weights)),
        "size_mb": round(sum(weight.numel() * weight.element_size() for weight in weights) / 1e6, 1),
    }
