"""Tokenizers that do by themselves, in any tool, what the text rule does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nvembed.modeling.hf_config import NVEmbedConfig

if TYPE_CHECKING:
    from nvembed.text import TextRule

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class NVEmbedTokenizer(PreTrainedTokenizerFast):
    """The published rule's end token: literal text behind each text, which truncation cuts."""

    appends_end = True

    def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        if self.appends_end and self.eos_token:
            text = text + self.eos_token if isinstance(text, str) else [item + self.eos_token for item in text]
        return super()._encode_plus(text, *args, **kwargs)


def portable(rule: TextRule, max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer to save: the rule's own, end token included, as a plain class that rebuilds nothing on loading.

    It has no chat template: a tool that finds one wraps texts in it.
    """
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(rule.tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    kind = NVEmbedTokenizer if rule.layout == "nv-embed" and rule.append_eos else PreTrainedTokenizerFast
    special = {name: str(token) for name in _SPECIAL if (token := getattr(rule.tokenizer, name, None)) is not None}
    return kind(
        tokenizer_object=backend,
        padding_side="right",
        truncation_side="right",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **special,
    )


def prompt_tail(rule: TextRule) -> list[int]:
    """Up to four last tokens of a prefix tokenised by itself, those that do not depend on the task."""
    ids = [
        rule.tokenizer(rule.prefix(task), add_special_tokens=False)["input_ids"] for task in ("Retrieve", "sort it.")
    ]
    tail: list[int] = []
    for one, other in zip(reversed(ids[0]), reversed(ids[1]), strict=False):
        if one != other or len(tail) == 4:
            break
        tail.insert(0, one)
    return tail


AutoTokenizer.register(NVEmbedConfig, fast_tokenizer_class=NVEmbedTokenizer, exist_ok=True)
