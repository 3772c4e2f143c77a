"""Small facts about tokenizers that the text rule rests on, and checks of what it is given."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def check_texts(texts: Iterable[str], first: int = 0) -> list[str]:
    """The texts as a list. Raises UserError for a lone string, and for what is not a string, naming its place.

    `first` is the place of the first one, where these are a part of more.
    """
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise UserError(f"texts: got one {type(texts).__name__}; give a list of strings, [text] for a single one")
    checked = list(texts)
    for place, text in enumerate(checked, first):
        if not isinstance(text, str):
            raise UserError(f"texts[{place}]: is {type(text).__name__}, not a string; drop or convert it")
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise UserError(f"texts[{place}]: is not valid Unicode ({error.reason}); drop or mend it") from None
    return checked


def end_token_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The token that ends a text: EOS, or SEP where there is no EOS; None if the tokenizer has neither."""
    return tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id


def adds_end_token(tokenizer: PreTrainedTokenizerFast) -> bool:
    """True if the tokenizer puts a special token behind every text by itself."""
    encoding = tokenizer("a", add_special_tokens=True, return_special_tokens_mask=True)
    return bool(encoding["special_tokens_mask"]) and bool(encoding["special_tokens_mask"][-1])


def with_end_token(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A tokenizer that ends every text with its end token by itself; the same object if it does so already.

    The token goes into the post-processor, so that truncation keeps it, and so that a saved copy behaves alike in
    any tool that knows nothing of this package.
    """
    token_id = end_token_id(tokenizer)
    if token_id is None or adds_end_token(tokenizer):
        return tokenizer
    from tokenizers.processors import Sequence, TemplateProcessing

    token = tokenizer.convert_ids_to_tokens(token_id)
    tokenizer = copy.deepcopy(tokenizer)
    backend = tokenizer.backend_tokenizer
    end = TemplateProcessing(single=f"$A {token}", pair=f"$A $B:1 {token}:1", special_tokens=[(token, token_id)])
    backend.post_processor = Sequence([backend.post_processor, end]) if backend.post_processor else end
    return tokenizer
