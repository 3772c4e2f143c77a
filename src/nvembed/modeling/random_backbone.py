"""Backbones of random weights, made in code: a real decoder and a real tokenizer for tests, with nothing to fetch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

SHAPES: dict[str, dict[str, Any]] = {
    "mistral-tiny": {
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "sliding_window": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
}
_SEED = 17


def random_config(shape: str) -> PretrainedConfig:
    """The configuration of a random backbone. Raises UserError for a shape that is not known."""
    if shape not in SHAPES:
        raise UserError(f"model.backbone 'random:{shape}': unknown shape; known: {', '.join(sorted(SHAPES))}")
    from transformers import MistralConfig

    return MistralConfig(**SHAPES[shape])


def random_model(shape: str) -> PreTrainedModel:
    """The backbone with seeded weights, in float32; the random state of the caller is left as it was."""
    import torch
    from transformers import AutoModel

    config = random_config(shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return AutoModel.from_config(config, dtype=torch.float32)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Pad, BOS, EOS and the 256 bytes; frames each text with BOS and EOS, pads on the right."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="right",
        model_max_length=2048,
    )
