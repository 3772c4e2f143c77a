"""The text rule, spelled out: every token of a text, left out of the pool or in it, for five kinds of tokenizer.

The instruction is always `find it`; `|` stands between the tokens that are left out and those that are pooled.
"""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from nvembed.core.errors import UserError
from nvembed.text import TextRule, Tokenized

LONG = "who where which"
BYTES = "I n s t r u c t : Ġ f i n d Ġ i t Ċ Q u e r y :"
PIECES = "▁ I n s t r u c t : ▁ f i n d ▁ i t ▁ Q u er y :"
LLAMA = "<s> ▁Instruct: ▁f in d ▁it \nQuery:"
WORDS = "[CLS] ins ##truct : find it query :"

# tokenizer, layout, text, with the instruction?, max_length, tokens
TABLE = [
    # Llama: a begin token, none at the end, words begin with their space. Published: the end token is text.
    ("llama", "nv-embed", "who", False, 512, "| <s> ▁who </s>"),
    ("llama", "nv-embed", "", False, 512, "| <s> </s>"),
    ("llama", "nv-embed", "who", True, 512, f"{LLAMA} | ▁who </s>"),
    ("llama", "nv-embed", "", True, 512, f"{LLAMA} | ▁ </s>"),
    ("llama", "nv-embed", " who", True, 512, f"{LLAMA} | ▁ ▁who </s>"),
    ("llama", "nv-embed", "2", True, 512, f"{LLAMA} | ▁ <0x32> </s>"),
    ("llama", "nv-embed", LONG, False, 3, "| <s> ▁who ▁where"),
    ("llama", "nv-embed", LONG, True, 8, f"{LLAMA} | ▁who"),
    ("llama", "nv-embed", LONG, True, 9, f"{LLAMA} | ▁who ▁where"),
    # The same tokenizer by offset: the end token is kept, the prefix's own space is not pooled.
    ("llama", "offset", "who", False, 512, "| <s> ▁who </s>"),
    ("llama", "offset", "", False, 512, "| <s> </s>"),
    ("llama", "offset", "who", True, 512, f"{LLAMA} | ▁who </s>"),
    ("llama", "offset", "", True, 512, f"{LLAMA} ▁ | </s>"),
    ("llama", "offset", " who", True, 512, f"{LLAMA} ▁ | ▁who </s>"),
    ("llama", "offset", "2", True, 512, f"{LLAMA} ▁ | <0x32> </s>"),
    ("llama", "offset", LONG, False, 3, "| <s> ▁who </s>"),
    ("llama", "offset", LONG, True, 10, f"{LLAMA} | ▁who ▁where </s>"),
    # Byte-level BPE without a begin token, an end token added.
    ("byte_bpe", "offset", "who", False, 512, "| who <|end|>"),
    ("byte_bpe", "offset", "", False, 512, "| <|end|>"),
    ("byte_bpe", "offset", "who", True, 512, f"{BYTES} | Ġwho <|end|>"),
    ("byte_bpe", "offset", "", True, 512, f"{BYTES} Ġ | <|end|>"),
    ("byte_bpe", "offset", " who", True, 512, f"{BYTES} Ġ | Ġwho <|end|>"),
    ("byte_bpe", "offset", "  who", True, 512, f"{BYTES} | ĠĠ Ġwho <|end|>"),
    ("byte_bpe", "offset", LONG, False, 2, "| who <|end|>"),
    ("byte_bpe", "offset", LONG, True, 27, f"{BYTES} | Ġwho Ġ <|end|>"),
    # A byte a token, framed: nothing ever merges.
    ("byte_level", "offset", "who", True, 512, f"<s> {BYTES} Ġ | w h o </s>"),
    ("byte_level", "offset", "", True, 512, f"<s> {BYTES} Ġ | </s>"),
    ("byte_level", "offset", " who", True, 512, f"<s> {BYTES} Ġ | Ġ w h o </s>"),
    ("byte_level", "offset", LONG, True, 28, f"<s> {BYTES} Ġ | w </s>"),
    # WordPiece: framed, spaces are no tokens.
    ("wordpiece", "offset", "who", False, 512, "| [CLS] who [SEP]"),
    ("wordpiece", "offset", "", False, 512, "| [CLS] [SEP]"),
    ("wordpiece", "offset", "who", True, 512, f"{WORDS} | who [SEP]"),
    ("wordpiece", "offset", "", True, 512, f"{WORDS} | [SEP]"),
    ("wordpiece", "offset", " who", True, 512, f"{WORDS} | who [SEP]"),
    ("wordpiece", "offset", LONG, False, 3, "| [CLS] who [SEP]"),
    ("wordpiece", "offset", LONG, True, 10, f"{WORDS} | who [SEP]"),
    # SentencePiece, Unigram: no begin token, several spaces made one.
    ("unigram", "offset", "who", False, 512, "| ▁wh o </s>"),
    ("unigram", "offset", "", False, 512, "| </s>"),
    ("unigram", "offset", "who", True, 512, f"{PIECES} | ▁wh o </s>"),
    ("unigram", "offset", "", True, 512, f"{PIECES} ▁ | </s>"),
    ("unigram", "offset", " who", True, 512, f"{PIECES} | ▁wh o </s>"),
    ("unigram", "offset", "bridge", True, 512, f"{PIECES} | ▁bridge </s>"),
    ("unigram", "offset", " 2", True, 512, f"{PIECES} ▁ | <unk> </s>"),
    ("unigram", "offset", LONG, False, 3, "| ▁wh o </s>"),
    ("unigram", "offset", LONG, True, 28, f"{PIECES} | ▁wh o ▁wh </s>"),
]


def spelled(tokenizer: PreTrainedTokenizerFast, item: Tokenized) -> str:
    """Tokens with a bar before the first pooled one; it is an error if one behind it is not pooled."""
    bar = item.pool_mask.index(True)
    assert all(item.pool_mask[bar:])
    tokens = tokenizer.convert_ids_to_tokens(item.input_ids)
    return " ".join([*tokens[:bar], "|", *tokens[bar:]])


@pytest.mark.parametrize(("name", "layout", "text", "instructed", "max_length", "tokens"), TABLE)
def test_the_table(
    request: pytest.FixtureRequest,
    name: str,
    layout: str,
    text: str,
    instructed: bool,
    max_length: int,
    tokens: str,
) -> None:
    rule = TextRule(request.getfixturevalue(name), layout=layout)  # type: ignore[arg-type]
    (item,) = rule.tokenize([text], "find it" if instructed else "", max_length)
    assert spelled(rule.tokenizer, item) == tokens
    assert len(item.input_ids) <= max_length


@pytest.mark.parametrize(
    ("name", "layout", "needed"),
    [
        ("llama", "nv-embed", 7),
        ("llama", "offset", 9),
        ("byte_bpe", "offset", 26),
        ("byte_level", "offset", 27),
        ("wordpiece", "offset", 9),
        ("unigram", "offset", 26),
    ],
)
def test_truncation_inside_the_instruction_is_refused_with_the_length_it_needs(
    request: pytest.FixtureRequest, name: str, layout: str, needed: int
) -> None:
    """Cut there, every text would come out the same, and nothing of any would be pooled (published: not a number)."""
    rule = TextRule(request.getfixturevalue(name), layout=layout)  # type: ignore[arg-type]
    for max_length in (1, needed - 2, needed):
        with pytest.raises(UserError, match=f"max_length {max_length}: the instruction takes {needed} tokens"):
            rule.tokenize([LONG], "find it", max_length)
    (item,) = rule.tokenize([LONG], "find it", needed + 1)
    assert sum(item.pool_mask) >= 1


def test_a_text_is_cut_at_its_end_never_its_instruction(llama: PreTrainedTokenizerFast) -> None:
    rule = TextRule(llama)
    (whole,), (cut,) = rule.tokenize([LONG * 30], "find it"), rule.tokenize([LONG * 30], "find it", 12)
    assert cut.input_ids[:11] == whole.input_ids[:11]
    assert cut.input_ids[11] == llama.eos_token_id
