"""Tokenizers of many kinds, none of which needs a network."""

from __future__ import annotations

from modeling_helpers import DATA, MINILM
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nvembed.modeling.backbone import load_tokenizer
from nvembed.modeling.random_backbone import byte_tokenizer
from nvembed.modeling.source import find_source


def byte_level() -> PreTrainedTokenizerFast:
    """A token a byte, framed by BOS and EOS."""
    return byte_tokenizer()


def wordpiece() -> PreTrainedTokenizerFast:
    """MiniLM's WordPiece: [CLS] … [SEP]."""
    return load_tokenizer(find_source(MINILM))


def llama() -> PreTrainedTokenizerFast:
    """A SentencePiece-like BPE with BOS and no EOS, whose pieces begin with the space before them."""
    return AutoTokenizer.from_pretrained(DATA / "nvembed-tiny", trust_remote_code=False)


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


def unigram(*, words_first: bool = False) -> PreTrainedTokenizerFast:
    """A SentencePiece of the Unigram kind, trained here: one space made of several, words begin with it.

    T5's keeps a space at the end of a text; with `words_first` it is cut into words before, as XLM-R's, and does not.
    """
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.models import Unigram

    sentences = [
        "who built the bridge",
        "who sells pepper at the market",
        "find it",
        "Instruct: find it",
        "Query: who where which what",
        "which river, what bridge, where",
        "who who who find it Query: Instruct:",
    ]
    tokenizer = Tokenizer(Unigram())
    one_space = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), one_space])
    words = [pre_tokenizers.WhitespaceSplit()] if words_first else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*words, pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=70, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(sentences * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
