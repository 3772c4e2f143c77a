"""How a text becomes tokens and which of them are pooled: the one home of that rule."""

from nvembed.text.published import check_published_rule
from nvembed.text.rule import DEFAULT_TEMPLATE, TextRule, Tokenized
from nvembed.text.tokenizer import adds_end_token, check_texts, with_end_token

__all__ = [
    "DEFAULT_TEMPLATE",
    "TextRule",
    "Tokenized",
    "adds_end_token",
    "check_published_rule",
    "check_texts",
    "with_end_token",
]
