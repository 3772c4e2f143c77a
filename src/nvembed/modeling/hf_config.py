"""The configuration that transformers reads: `model_type: nvembed`, the published one and this project's own alike.

The published form says all in `text_config` (a `bidir_mistral`) and `latent_attention_config`. This project's own
puts the backbone's real configuration into `text_config` and the rest, as a `Spec`, into `nvembed`.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.configuration_utils import SubConfigSpec

PUBLISHED_BACKBONE = "bidir_mistral"


class NVEmbedConfig(PretrainedConfig):
    """A backbone's configuration, a latent block's, and what pools and prompts.

    Attributes:
        text_config: the backbone's own configuration.
        latent_attention_config: the block, in the published keys; None for other poolings.
        nvembed: a `Spec` as plain values; None in the published form.
        prompt_tail: the last tokens of an instruction's prefix tokenised by itself, by which a model that is told a
            prompt's length can see whether the prompt's last piece merged with the text.
    """

    model_type = "nvembed"
    sub_configs_defaults = {  # noqa: RUF012 - transformers reads it off the class
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="mistral")
    }

    text_config: dict[str, Any] | PretrainedConfig | None = None
    latent_attention_config: dict[str, Any] | None = None
    nvembed: dict[str, Any] | None = None
    prompt_tail: list[int] | None = None
    hidden_size: int = 4096

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None:
            self.text_config = {"model_type": PUBLISHED_BACKBONE}
        if isinstance(self.text_config, dict):
            self.text_config = backbone_config(self.text_config)
        self.hidden_size = self.text_config.hidden_size
        super().__post_init__(**kwargs)


def backbone_config(values: dict[str, Any]) -> PretrainedConfig:
    """A backbone's configuration from plain values; the published `bidir_mistral` is a Mistral that looks both ways."""
    values = dict(values)
    model_type = values.pop("model_type", PUBLISHED_BACKBONE)
    if model_type != PUBLISHED_BACKBONE:
        return AutoConfig.for_model(model_type, **values)
    # written by a transformers of its time: keys of generation and the like would only be carried along
    known = {
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range",
        "rms_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id", "rope_theta", "attention_dropout",
    }  # fmt: skip
    kept = {"rope_theta": 10000.0, "rms_norm_eps": 1e-5, **{key: values[key] for key in known if key in values}}
    return AutoConfig.for_model("mistral", **kept, sliding_window=None, is_causal=False)


AutoConfig.register("nvembed", NVEmbedConfig, exist_ok=True)
