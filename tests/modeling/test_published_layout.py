"""The published layout at its real size, on the meta device, and who may be saved in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from modeling_helpers import DATA, INSTRUCTION, MINILM, TEXTS, furthest
from transformers import AutoModel, AutoTokenizer, MistralConfig

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.modeling import check_section
from nvembed.modeling.hf_config import NVEmbedConfig
from nvembed.modeling.hf_model import NVEmbedTextModel
from nvembed.modeling.lora import add_lora, merged_state
from nvembed.recipe import LoRA, Model

Section = Callable[..., Model]
Stir = Callable[[NVEmbedModel], NVEmbedModel]

# Mistral-7B-v0.1 and the published block: width, feed-forward width, key and value width (8 heads of 128), words
DIM, INNER, KV, WORDS, LAYERS = 4096, 14336, 8 * 128, 32000, 32
LATENTS, HEADS = 512, 8


def published_tensors() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of NV-Embed, spelled out from the description of its state dict."""
    shapes: dict[str, tuple[int, ...]] = {
        "embedding_model.embed_tokens.weight": (WORDS, DIM),
        "embedding_model.norm.weight": (DIM,),
    }
    for layer in range(LAYERS):
        inside = {
            "input_layernorm": (DIM,),
            "post_attention_layernorm": (DIM,),
            "self_attn.q_proj": (DIM, DIM),
            "self_attn.k_proj": (KV, DIM),
            "self_attn.v_proj": (KV, DIM),
            "self_attn.o_proj": (DIM, DIM),
            "mlp.gate_proj": (INNER, DIM),
            "mlp.up_proj": (INNER, DIM),
            "mlp.down_proj": (DIM, INNER),
        }
        shapes |= {f"embedding_model.layers.{layer}.{name}.weight": shape for name, shape in inside.items()}
    block = {
        "latents": (LATENTS, DIM),
        "cross_attend_blocks.0.norm.weight": (DIM,),
        "cross_attend_blocks.0.norm.bias": (DIM,),
        "cross_attend_blocks.0.norm_context.weight": (DIM,),
        "cross_attend_blocks.0.norm_context.bias": (DIM,),
        "cross_attend_blocks.0.fn.to_q.weight": (HEADS * DIM, DIM),
        "cross_attend_blocks.0.fn.to_kv.weight": (2 * HEADS * DIM, DIM),
        "cross_attend_blocks.0.fn.to_out.weight": (DIM, HEADS * DIM),
        "cross_attend_blocks.1.norm.weight": (DIM,),
        "cross_attend_blocks.1.norm.bias": (DIM,),
        "cross_attend_blocks.1.fn.net.0.weight": (8 * DIM, DIM),
        "cross_attend_blocks.1.fn.net.0.bias": (8 * DIM,),
        "cross_attend_blocks.1.fn.net.2.weight": (DIM, 4 * DIM),
        "cross_attend_blocks.1.fn.net.2.bias": (DIM,),
    }
    return shapes | {f"latent_attention_model.{name}": shape for name, shape in block.items()}


@pytest.fixture(scope="module")
def full_size() -> NVEmbedTextModel:
    """As the published configuration asks for it, its block's sizes left to their defaults; no weights."""
    config = NVEmbedConfig(
        text_config={
            "model_type": "bidir_mistral",
            "vocab_size": WORDS,
            "hidden_size": DIM,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
        },
        latent_attention_config={"model_type": "latent_attention"},
    )
    with torch.device("meta"):
        return NVEmbedTextModel(config)


def test_the_304_published_tensors_are_all_there_and_no_others(full_size: NVEmbedTextModel) -> None:
    expected = published_tensors()
    assert len(expected) == 304
    assert {name: tuple(tensor.shape) for name, tensor in full_size.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in full_size.parameters()) == 7_851_016_192
    assert sum(p.numel() for p in full_size.latent_attention_model.parameters()) == 740_356_096


def test_adapters_on_all_linear_layers_have_the_published_count_and_merge_into_the_same_names(
    full_size: NVEmbedTextModel,
) -> None:
    with torch.device("meta"):
        backbone = AutoModel.from_config(full_size.embedding_model.config)
    before = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    with torch.device("meta"):
        add_lora(backbone, LoRA(rank=16), seed=1)
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == 41_943_040
    assert {name: tensor.shape for name, tensor in merged_state(backbone).items()} == before


@pytest.fixture
def mistral(tmp_path: Path) -> Path:
    """A bare Mistral with random weights and the published tokenizer: what one would train from scratch."""
    folder = tmp_path / "mistral"
    torch.manual_seed(11)
    config = MistralConfig(
        vocab_size=558,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
        rope_theta=20000.0,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(DATA / "nvembed-tiny", trust_remote_code=False).save_pretrained(folder)
    return folder


def test_a_mistral_trained_here_under_the_published_rule_is_saved_in_the_published_layout(
    section: Section, stirred: Stir, mistral: Path, tmp_path: Path
) -> None:
    asked = section(backbone=str(mistral), text_rule="nv-embed")
    check_section(asked)
    model = stirred(NVEmbedModel.from_section(asked, trainable=True))
    folder = model.save_pretrained(tmp_path / "out", layout="nv-embed")
    again = NVEmbedModel.from_pretrained(folder)
    for instruction in ("", INSTRUCTION):
        assert furthest(again.encode(TEXTS, instruction), model.encode(TEXTS, instruction)) < 1e-5
    config = json.loads((folder / "config.json").read_text())
    assert config["text_config"]["model_type"] == "bidir_mistral"
    assert config["text_config"]["rope_theta"] == 20000.0
    assert {"add_eos": True, "is_mask_instruction": True, "mask_type": "b", "padding_side": "right"}.items() <= (
        config.items()
    )
    by_offset = NVEmbedModel.from_section(section(backbone=str(mistral)))
    assert by_offset.spec.layout == "offset"


def test_a_published_model_may_be_put_under_the_offset_rule(section: Section) -> None:
    asked = section(backbone=str(DATA / "nvembed-tiny"))
    layouts = {
        rule: NVEmbedModel.from_section(asked.model_copy(update={"text_rule": rule})).spec.layout
        for rule in ("auto", "nv-embed", "offset")
    }
    assert layouts == {"auto": "nv-embed", "nv-embed": "nv-embed", "offset": "offset"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": MINILM}, "holds a Mistral backbone only, not bert"),
        ({"backbone": "random:mistral-tiny"}, "does not pool the query"),
        ({"query_template": "{task}: {text}"}, "model.query_template is not"),
    ],
)
def test_the_published_rule_is_refused_where_it_does_not_fit(
    section: Section, mistral: Path, changes: dict, message: str
) -> None:
    asked = section(**{"backbone": str(mistral), "text_rule": "nv-embed", **changes})
    for refuse in (check_section, NVEmbedModel.from_section):
        with pytest.raises(UserError, match=message) as refused:
            refuse(asked)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"head_dim": 16}, r"heads of width 8 .* only, not 16"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "plain rotary positions only"),
    ],
)
def test_a_mistral_of_a_later_kind_is_not_written_in_the_published_layout(
    section: Section, mistral: Path, config: dict, message: str
) -> None:
    file = mistral / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    with pytest.raises(UserError, match=message):
        check_section(section(backbone=str(mistral), text_rule="nv-embed"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_rule": "offset"}, "published text rule"),
        ({"pooling": "mean"}, "latent block"),
        ({"attention": "causal"}, "look both ways"),
        ({"latent": {"num_latents": 8, "num_heads": 2, "ff_mult": 2}}, "ff_mult is 4"),
    ],
)
def test_what_the_published_layout_cannot_hold_is_not_written_in_it(
    section: Section, mistral: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    model = NVEmbedModel.from_section(section(**{"backbone": str(mistral), "text_rule": "nv-embed", **changes}))
    with pytest.raises(UserError, match=message):
        model.save_pretrained(tmp_path / "out", layout="nv-embed")
    assert not (tmp_path / "out").exists()


def test_a_published_checkpoint_is_loaded_by_our_classes_whatever_code_it_names(tmp_path: Path) -> None:
    """Its configuration's `auto_map` names Python files of its own; none of them is run."""
    import shutil

    folder = shutil.copytree(DATA / "nvembed-tiny", tmp_path / "published")
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    for name in ("configuration_nvembed", "modeling_nvembed"):
        (folder / f"{name}.py").write_text("raise SystemExit('remote code was run')\n")
    ours = NVEmbedModel.from_pretrained(folder).encode(TEXTS)
    assert isinstance(AutoModel.from_pretrained(folder), NVEmbedTextModel)
    assert furthest(NVEmbedModel.from_card(str(folder)).encode(TEXTS), ours) == 0


@pytest.mark.parametrize("padded", ["left", "right"])
def test_the_published_folder_itself_opens_in_sentence_transformers_as_its_card_says(padded: str) -> None:
    """End tokens written behind the texts by hand; the published code wants the padding turned to the right first."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(str(DATA / "nvembed-tiny"), device="cpu")
    loaded.tokenizer.padding_side = padded
    for case in json.loads((DATA / "nvembed-tiny" / "expected.json").read_text()):
        loaded.max_seq_length = case["max_length"]
        texts = [text + loaded.tokenizer.eos_token for text in case["texts"]]
        vectors = loaded.encode(texts, prompt=case["instruction"] or None, normalize_embeddings=True)
        assert furthest(vectors, np.array(case["embeddings"], dtype=np.float32)) < 1e-5, case["name"]
