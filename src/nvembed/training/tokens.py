"""Texts to tokens by the model's text rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel
    from nvembed.text import Tokenized
    from nvembed.training.layout import Text


def tokenize(model: NVEmbedModel, texts: Sequence[Text]) -> list[Tokenized]:
    """Tokens of each text by the model's text rule; one call for each instruction and length."""
    tokenized: list[Tokenized | None] = [None] * len(texts)
    alike: dict[tuple[str, int], list[int]] = {}
    for index, text in enumerate(texts):
        alike.setdefault((text.instruction, text.max_length), []).append(index)
    for (instruction, max_length), places in alike.items():
        results = model.tokenize([texts[i].text for i in places], instruction, max_length)
        for index, result in zip(places, results, strict=True):
            tokenized[index] = result
    return [item for item in tokenized if item is not None]
