"""The text rule: instruction template, end token, truncation, and which tokens are pooled.

Two layouts. `nv-embed` is the published rule (arXiv 2405.17428's checkpoint): the end token is literal text behind
each text, so truncation cuts it, and the first n positions are left out of the pool, n being the number of tokens of
the prefix tokenised by itself without special tokens. That count rests on the prefix's last piece merging with the
query, as it does in a Llama tokenizer; with byte-level BPE it would drop a word.

`offset` is for any other backbone. The tokenizer's special tokens frame the text, an end token is added where the
tokenizer adds none, and truncation keeps both. Without an instruction every token is pooled, special ones included:
that is what plain mean pooling of a BERT-style encoder does. With one, a token is pooled if it reaches beyond the end
of the instruction (a piece that straddles it counts as text), and so are the special tokens behind the text; those
before it belong to the prefix. Where a tokenizer makes one space of several, a lone space may be the prefix's last
piece and the text's first: it stays the prefix's.

An instruction that alone fills `max_length` is refused in both layouts: every text would come out the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.text.tokenizer import check_texts, end_token_id, with_end_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DEFAULT_TEMPLATE = "Instruct: {task}\nQuery: {text}"
Layout = Literal["offset", "nv-embed"]


@dataclass(frozen=True, slots=True)
class Tokenized:
    """One text as tokens; `pool_mask[i]` says whether token i enters the pool. At least one does."""

    input_ids: list[int]
    pool_mask: list[bool]


class TextRule:
    """Turns texts into tokens and a pool mask.

    Args:
        tokenizer: a fast transformers tokenizer (it must know character offsets).
        template: holds `{task}`, then `{text}` at its end; used where an instruction is given.
        layout: `offset` for any backbone, `nv-embed` for the published one.
        append_eos: end each text with the end token where the tokenizer does not do so itself.

    Raises UserError for a template of another shape and for a tokenizer without offsets.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: str = DEFAULT_TEMPLATE,
        layout: Layout = "offset",
        append_eos: bool = True,
    ) -> None:
        if layout not in ("offset", "nv-embed"):
            raise UserError(f"layout {layout!r} is unknown; known: offset, nv-embed")
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"{type(tokenizer).__name__}: has no character offsets; use the fast form of this tokenizer"
            )
        self._before_task, self._after_task = split_template(template)
        self.template, self.layout, self.append_eos = template, layout, append_eos
        self.tokenizer = with_end_token(tokenizer) if layout == "offset" and append_eos else tokenizer
        self._prefix_lengths: dict[str, int] = {}
        self._prefix_ends: dict[str, tuple[int, int]] = {}

    def prefix(self, instruction: str) -> str:
        """What stands before a text: empty without an instruction, else the template filled in.

        An instruction that has the template's shape already (`Instruct: …\\nQuery: `) is taken as it is.
        """
        if not isinstance(instruction, str):
            raise UserError(f"instruction: is {type(instruction).__name__}, not a string; use '' for none")
        if not instruction:
            return ""
        shaped = instruction.startswith(self._before_task) and instruction.endswith(self._after_task)
        if shaped and self._before_task.strip() and self._after_task.strip():
            return instruction
        return f"{self._before_task}{instruction}{self._after_task}"

    def tokenize(self, texts: Iterable[str], instruction: str = "", max_length: int = 512) -> list[Tokenized]:
        """Tokens and pool mask of each text, in order.

        Raises UserError if a text is not a string, or if the instruction leaves no room for text in `max_length`.
        """
        checked = check_texts(texts)
        prefix = self.prefix(instruction)
        self._check_room(prefix, max_length)
        if not checked:
            return []
        tokenise = self._tokenize_published if self.layout == "nv-embed" else self._tokenize_by_offset
        return tokenise(checked, prefix, max_length)

    def digest(self) -> str:
        """Names this rule by its content: tokenizer, template, layout, end token.

        A tokenizer's truncation and padding are what its last call asked for, not part of what it is.
        """
        backend = json.loads(self.tokenizer.backend_tokenizer.to_str())
        own = {name: value for name, value in backend.items() if name not in ("truncation", "padding")}
        return digest_json([own, self.template, self.layout, self.append_eos])

    def _check_room(self, prefix: str, max_length: int) -> None:
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise UserError(f"max_length {max_length!r}: give a whole number of tokens, 1 or more")
        needed = self._prefix_length(prefix)
        if needed >= max_length:
            what = f"the instruction takes {needed} tokens" if prefix else f"special tokens alone take {needed}"
            raise UserError(f"max_length {max_length}: {what}, which leaves no room for text; raise max_length")

    def _prefix_length(self, prefix: str) -> int:
        """Tokens of the prefix alone: as published without special tokens, by offset with them."""
        if prefix not in self._prefix_lengths:
            ids = self.tokenizer(prefix, add_special_tokens=self.layout == "offset")["input_ids"]
            self._prefix_lengths[prefix] = len(ids)
        return self._prefix_lengths[prefix]

    def _tokenize_published(self, texts: Sequence[str], prefix: str, max_length: int) -> list[Tokenized]:
        end = self.tokenizer.eos_token if self.append_eos and self.tokenizer.eos_token else ""
        ids = self._encode([prefix + text + end for text in texts], max_length)["input_ids"]
        left_out = self._prefix_length(prefix) if prefix else 0
        return [self._pooled(row, [place >= left_out for place in range(len(row))]) for row in ids]

    def _tokenize_by_offset(self, texts: Sequence[str], prefix: str, max_length: int) -> list[Tokenized]:
        encoded = self._encode([prefix + text for text in texts], max_length)
        if not prefix:
            return [self._pooled(row, [True] * len(row)) for row in encoded["input_ids"]]
        rows = zip(encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True)
        place, token = self._last_of_prefix(prefix)
        items = []
        for ids, offsets, special in rows:
            mask = _beyond(len(prefix), offsets, special)
            if place < len(ids) and ids[place] == token:
                mask[place] = False
            items.append(self._pooled(ids, mask))
        return items

    def _last_of_prefix(self, prefix: str) -> tuple[int, int]:
        """Place and id of the last piece of the prefix tokenised by itself, special tokens before it counted."""
        if prefix not in self._prefix_ends:
            encoded = self.tokenizer(prefix, add_special_tokens=True, return_special_tokens_mask=True)
            is_special = encoded["special_tokens_mask"]
            place = max((i for i, special in enumerate(is_special) if not special), default=0)
            self._prefix_ends[prefix] = (place, encoded["input_ids"][place])
        return self._prefix_ends[prefix]

    def _encode(self, texts: list[str], max_length: int) -> Any:
        return self.tokenizer(
            texts,
            add_special_tokens=True,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )

    def _pooled(self, ids: list[int], mask: list[bool]) -> Tokenized:
        """An empty text may leave no token, or none to pool: the end token stands in, or the last token is pooled."""
        if not ids:
            end = end_token_id(self.tokenizer)
            stand_ins = (end, self.tokenizer.bos_token_id, self.tokenizer.pad_token_id, 0)
            return Tokenized([next(i for i in stand_ins if i is not None)], [True])
        if not any(mask):
            mask = [False] * (len(ids) - 1) + [True]
        return Tokenized(list(ids), mask)


def split_template(template: str) -> tuple[str, str]:
    """What a template has before the task and between task and text. Raises UserError if text is not its end."""
    before, task, rest = template.partition("{task}")
    after, text, tail = rest.partition("{text}")
    if not task or not text or tail:
        raise UserError(f"query_template {template!r}: write it as '...{{task}}...{{text}}', with the text at its end")
    return before, after


def _beyond(end: int, offsets: Sequence[tuple[int, int]], special: Sequence[int]) -> list[bool]:
    mask, seen_text = [], False
    for (_, stop), is_special in zip(offsets, special, strict=True):
        seen_text = seen_text or not is_special
        mask.append(seen_text if is_special else stop > end)
    return mask
