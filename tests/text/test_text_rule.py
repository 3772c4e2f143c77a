"""The text rule as tables: which tokens a text becomes, and which of them are pooled, for four kinds of tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from nvembed.core.errors import UserError
from nvembed.text import TextRule

DATA = Path(__file__).resolve().parents[1] / "data"


def spelled(rule: TextRule, text: str, instruction: str = "", max_length: int = 512) -> tuple[list[str], list[str]]:
    """The tokens left out of the pool and the tokens in it."""
    (item,) = rule.tokenize([text], instruction, max_length)
    tokens = rule.tokenizer.convert_ids_to_tokens(item.input_ids)
    pairs = list(zip(tokens, item.pool_mask, strict=True))
    return [token for token, pooled in pairs if not pooled], [token for token, pooled in pairs if pooled]


PREFIX = ["[CLS]", "ins", "##truct", ":", "find", "it", "query", ":"]


@pytest.mark.parametrize(
    ("text", "instruction", "max_length", "left_out", "pooled"),
    [
        ("who", "", 512, [], ["[CLS]", "who", "[SEP]"]),
        ("", "", 512, [], ["[CLS]", "[SEP]"]),
        ("who", "find it", 512, PREFIX, ["who", "[SEP]"]),
        (" who", "find it", 512, PREFIX, ["who", "[SEP]"]),
        ("", "find it", 512, PREFIX, ["[SEP]"]),
        ("who where which", "find it", 10, PREFIX, ["who", "[SEP]"]),
        ("who where which", "", 3, [], ["[CLS]", "who", "[SEP]"]),
    ],
)
def test_a_wordpiece_text_is_framed_and_its_prefix_left_out(
    wordpiece: PreTrainedTokenizerFast,
    text: str,
    instruction: str,
    max_length: int,
    left_out: list[str],
    pooled: list[str],
) -> None:
    assert spelled(TextRule(wordpiece), text, instruction, max_length) == (left_out, pooled)


@pytest.mark.parametrize(
    ("text", "instruction", "pooled"),
    [
        ("who", "", ["<s>", "w", "h", "o", "</s>"]),
        ("", "", ["<s>", "</s>"]),
        ("who", "find it", ["w", "h", "o", "</s>"]),
        (" who", "find it", ["Ġ", "w", "h", "o", "</s>"]),
        ("", "find it", ["</s>"]),
        ("é", "find it", ["Ã", "©", "</s>"]),
        ("é", "trouve-là", ["Ã", "©", "</s>"]),
    ],
)
def test_bytes_of_the_text_alone_are_pooled_behind_an_instruction(
    byte_level: PreTrainedTokenizerFast, text: str, instruction: str, pooled: list[str]
) -> None:
    left_out, found = spelled(TextRule(byte_level), text, instruction)
    assert found == pooled
    assert len(left_out) == (len(f"<Instruct: {instruction}\nQuery: ".encode()) if instruction else 0)


@pytest.mark.parametrize(
    ("text", "instruction", "last_left_out", "pooled"),
    [
        ("who", "", None, ["who", "<|end|>"]),
        ("", "", None, ["<|end|>"]),
        ("who", "find it", ":", ["Ġwho", "<|end|>"]),
        ("", "find it", "Ġ", ["<|end|>"]),
        (" who", "find it", "Ġ", ["Ġwho", "<|end|>"]),
        ("  who", "find it", ":", ["ĠĠ", "Ġwho", "<|end|>"]),
    ],
)
def test_byte_level_bpe_gets_an_end_token_and_loses_no_word(
    byte_bpe: PreTrainedTokenizerFast, text: str, instruction: str, last_left_out: str | None, pooled: list[str]
) -> None:
    left_out, found = spelled(TextRule(byte_bpe), text, instruction)
    assert (left_out[-1] if left_out else None) == last_left_out
    assert found == pooled


def test_the_published_count_of_prefix_tokens_would_drop_a_word_of_byte_level_bpe(
    byte_bpe: PreTrainedTokenizerFast,
) -> None:
    _, by_count = spelled(TextRule(byte_bpe, layout="nv-embed"), "who", "find it")
    _, by_offset = spelled(TextRule(byte_bpe), "who", "find it")
    assert "Ġwho" in by_offset
    assert "Ġwho" not in by_count


def test_offsets_pool_a_llama_piece_that_straddles_the_instructions_end(llama: PreTrainedTokenizerFast) -> None:
    left_out, pooled = spelled(TextRule(llama), "who", "find it")
    assert left_out[0] == "<s>"
    assert left_out[-1].endswith(":")
    assert pooled[0].startswith("▁")
    assert "".join(pooled) == "▁who</s>"


def test_the_published_rule_leaves_out_as_many_positions_as_the_prefix_has_tokens(
    llama: PreTrainedTokenizerFast,
) -> None:
    rule = TextRule(llama, layout="nv-embed")
    left_out, pooled = spelled(rule, "who", "find it")
    assert len(left_out) == len(llama("Instruct: find it\nQuery: ", add_special_tokens=False)["input_ids"])
    assert "".join(pooled) == "▁who</s>"
    assert spelled(rule, "who")[1][0] == "<s>", "a document pools the begin token too"


def test_the_published_end_token_is_text_that_truncation_cuts(llama: PreTrainedTokenizerFast) -> None:
    published, offset = TextRule(llama, layout="nv-embed"), TextRule(llama)
    text = "who where which what who where which what"
    assert spelled(published, text, "", 6)[1][-1] != "</s>"
    assert spelled(offset, text, "", 6)[1][-1] == "</s>"
    assert len(published.tokenize([text], "", 6)[0].input_ids) == 6
    assert len(offset.tokenize([text], "", 6)[0].input_ids) == 6


def test_published_token_ids_are_reproduced(llama: PreTrainedTokenizerFast) -> None:
    rule = TextRule(llama, layout="nv-embed")
    cases = json.loads((DATA / "nvembed-tiny" / "expected.json").read_text())
    assert len(cases) == 3
    for case in cases:
        items = rule.tokenize(case["texts"], case["instruction"], case["max_length"])
        assert [item.input_ids for item in items] == case["input_ids"]


def test_an_end_token_is_not_added_twice_or_where_it_is_not_wanted(
    byte_level: PreTrainedTokenizerFast, llama: PreTrainedTokenizerFast
) -> None:
    assert spelled(TextRule(byte_level), "a")[1] == ["<s>", "a", "</s>"]
    assert spelled(TextRule(llama, append_eos=False), "who")[1][-1] != "</s>"
    assert llama("who")["input_ids"] == TextRule(llama, append_eos=False).tokenize(["who"])[0].input_ids
    assert TextRule(llama).tokenizer is not llama, "the caller's tokenizer is left as it was"


def test_end_tokens_in_a_users_text_are_text(byte_level: PreTrainedTokenizerFast) -> None:
    _, pooled = spelled(TextRule(byte_level), "</s>who", "find it")
    assert pooled == ["</s>", "w", "h", "o", "</s>"]


def test_a_prefix_of_the_templates_shape_is_taken_as_it_is(byte_level: PreTrainedTokenizerFast) -> None:
    rule = TextRule(byte_level)
    whole = "Instruct: find it\nQuery: "
    assert rule.prefix("find it") == whole
    assert rule.tokenize(["who"], whole) == rule.tokenize(["who"], "find it")


def test_another_template_is_followed(byte_level: PreTrainedTokenizerFast) -> None:
    rule = TextRule(byte_level, template="task: {task} | {text}")
    assert rule.prefix("find it") == "task: find it | "


@pytest.mark.parametrize("template", ["{text}", "{task}", "{text} {task}", "{task} {text} end"])
def test_a_template_that_does_not_end_in_its_text_is_refused(
    byte_level: PreTrainedTokenizerFast, template: str
) -> None:
    with pytest.raises(UserError, match="query_template"):
        TextRule(byte_level, template=template)


@pytest.mark.parametrize(
    ("texts", "message"),
    [(["a", None], r"texts\[1\]: is NoneType"), ([b"a"], r"texts\[0\]: is bytes"), ("abc", "one str")],
)
def test_what_is_not_a_list_of_strings_is_refused(
    byte_level: PreTrainedTokenizerFast, texts: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        TextRule(byte_level).tokenize(texts)


@pytest.mark.parametrize("layout", ["offset", "nv-embed"])
def test_an_instruction_longer_than_max_length_is_refused(llama: PreTrainedTokenizerFast, layout: str) -> None:
    with pytest.raises(UserError, match="leaves no room for text"):
        TextRule(llama, layout=layout).tokenize(["who"], "find it " * 20, 16)  # type: ignore[arg-type]


def test_no_texts_give_no_tokens(byte_level: PreTrainedTokenizerFast) -> None:
    assert TextRule(byte_level).tokenize([]) == []


def test_every_text_pools_at_least_one_token(byte_bpe: PreTrainedTokenizerFast, llama: PreTrainedTokenizerFast) -> None:
    for tokenizer in (byte_bpe, llama):
        for append_eos in (True, False):
            rule = TextRule(tokenizer, append_eos=append_eos)
            for instruction in ("", "find it"):
                assert any(rule.tokenize([""], instruction)[0].pool_mask)
