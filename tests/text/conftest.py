"""Tokenizers of five kinds, each made once."""

from __future__ import annotations

import pytest
import tokenizer_kinds
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerFast:
    return tokenizer_kinds.byte_level()


@pytest.fixture(scope="session")
def wordpiece() -> PreTrainedTokenizerFast:
    return tokenizer_kinds.wordpiece()


@pytest.fixture(scope="session")
def llama() -> PreTrainedTokenizerFast:
    return tokenizer_kinds.llama()


@pytest.fixture(scope="session")
def byte_bpe() -> PreTrainedTokenizerFast:
    return tokenizer_kinds.byte_bpe()


@pytest.fixture(scope="session")
def unigram() -> PreTrainedTokenizerFast:
    return tokenizer_kinds.unigram()
