"""Whether a tokenizer can take the published rule, found by trying: it rests on how a Llama tokenizer cuts a prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nvembed.core.errors import UserError
from nvembed.text.rule import DEFAULT_TEMPLATE, TextRule, Tokenized

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PROBES = ("who built it?", "The bridge", "2 apples", "études")


def check_published_rule(tokenizer: PreTrainedTokenizerFast, template: str = DEFAULT_TEMPLATE) -> None:
    """Raises UserError where the published rule would leave tokens of a query out of the pool, or read no end token.

    The rule leaves out as many positions as the prefix has tokens by itself. That is right if the tokenizer puts one
    token before a text and the prefix's last piece, a space, merges with the query; where it does not merge (before a
    digit, in a Llama tokenizer), that space is pooled too. And `</s>` written behind a text must be read as the end
    token. Whether all this holds is seen by comparing with the offset rule on a few queries.
    """
    where = "model.text_rule is 'nv-embed', which the published layout needs"
    if template != DEFAULT_TEMPLATE:
        raise UserError(f"{where}, but model.query_template is not {DEFAULT_TEMPLATE!r}; leave one of them out")
    if tokenizer.eos_token is None:
        raise UserError(f"{where}, but the backbone's tokenizer has no end token; use model.text_rule=offset")
    published, by_offset = TextRule(tokenizer, layout="nv-embed"), TextRule(tokenizer)
    for instruction in ("", "Retrieve passages"):
        for probe in _PROBES:
            (found,), (expected,) = (rule.tokenize([probe], instruction) for rule in (published, by_offset))
            if not _pools_the_query(found, expected):
                raise UserError(
                    f"{where}, but with the backbone's tokenizer it does not pool the query {probe!r} as a Llama "
                    "tokenizer would have it; use model.text_rule=offset"
                )


def _pools_the_query(found: Tokenized, expected: Tokenized) -> bool:
    """The same tokens, none of the query's left out, and at most a space before them pooled too."""
    if found.input_ids != expected.input_ids:
        return False
    is_left_out = any(wanted and not pooled for wanted, pooled in zip(expected.pool_mask, found.pool_mask, strict=True))
    return not is_left_out and sum(found.pool_mask) - sum(expected.pool_mask) <= 1
