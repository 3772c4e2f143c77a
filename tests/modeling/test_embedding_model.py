"""What the model promises: attention as asked, texts isolated from their batch, adapters that come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from modeling_helpers import DATA, INSTRUCTION, MINILM, TEXTS, furthest
from safetensors.torch import load_file, save_file

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.modeling.attention import check_attention, is_decoder, set_attention
from nvembed.modeling.lora import merged_state
from nvembed.recipe import Model

Section = Callable[..., Model]
Stir = Callable[[NVEmbedModel], NVEmbedModel]


def first_state(model: NVEmbedModel, ids: list[int]) -> torch.Tensor:
    tokens = torch.tensor([ids])
    with torch.no_grad():
        return model.backbone(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0, 0]


def test_changing_the_last_token_moves_position_0_of_a_bidirectional_model_only(section: Section) -> None:
    ids, other = [1, 40, 50, 60, 2], [1, 40, 50, 60, 70]
    moved = {}
    for attention in ("bidirectional", "causal"):
        model = NVEmbedModel.from_section(section(attention=attention))
        moved[attention] = float((first_state(model, ids) - first_state(model, other)).abs().max())
    assert moved["bidirectional"] > 1e-3
    assert moved["causal"] == 0


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_both_attention_implementations_look_both_ways(section: Section, implementation: str) -> None:
    model = NVEmbedModel.from_section(section())
    model.backbone.set_attn_implementation(implementation)
    check_attention(model.backbone, "bidirectional")


def test_the_start_up_check_catches_a_decoder_that_does_not_do_as_asked(section: Section) -> None:
    causal = NVEmbedModel.from_section(section(attention="causal"))
    with pytest.raises(RuntimeError, match="does not see the last token"):
        check_attention(causal.backbone, "bidirectional")
    bidirectional = NVEmbedModel.from_section(section())
    with pytest.raises(RuntimeError, match="sees the last token"):
        check_attention(bidirectional.backbone, "causal")


SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("mistral", {"sliding_window": 4}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 8}),
        ("gemma2", {"head_dim": 8, "sliding_window": 4}),
        ("gemma3_text", {"head_dim": 8, "sliding_window": 4}),
    ],
)
def test_decoders_of_many_families_attend_as_asked_and_can_be_switched_back(
    family: str, changes: dict, attention: str
) -> None:
    from transformers import AutoConfig, AutoModel

    model = AutoModel.from_config(AutoConfig.for_model(family, **SMALL, **changes)).eval()
    assert is_decoder(model)
    other = "causal" if attention == "bidirectional" else "bidirectional"
    for asked in (attention, other, attention):
        set_attention(model, asked)  # type: ignore[arg-type]
        check_attention(model, asked)  # type: ignore[arg-type]
    again = AutoModel.from_config(model.config).eval()
    set_attention(again, attention)  # type: ignore[arg-type]


def test_without_its_own_mask_mistral_sees_beyond_its_window(section: Section) -> None:
    """The published configuration names a sliding window that the published model does not apply."""
    from transformers import AutoConfig, AutoModel

    model = AutoModel.from_config(
        AutoConfig.for_model("mistral", **{**SMALL, "num_hidden_layers": 1}, sliding_window=2)
    )
    set_attention(model.eval(), "bidirectional")
    check_attention(model, "bidirectional")  # one layer: position 0 moves only if it sees position 7 itself


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_encoders_are_told_from_decoders(family: str) -> None:
    from transformers import AutoConfig, AutoModel

    assert not is_decoder(AutoModel.from_config(AutoConfig.for_model(family, **SMALL)))


def test_an_encoder_is_left_as_it_is(section: Section) -> None:
    model = NVEmbedModel.from_section(section(backbone=MINILM, attention="causal", pooling="mean"))
    assert not is_decoder(model.backbone)
    assert furthest(model.encode(TEXTS[:2]), NVEmbedModel.from_card(MINILM).encode(TEXTS[:2])) == 0


@pytest.mark.parametrize("pooling", ["latent", "mean", "last"])
@pytest.mark.parametrize("backbone", ["random:mistral-tiny", MINILM])
def test_a_text_alone_equals_the_text_in_a_batch(section: Section, backbone: str, pooling: str) -> None:
    model = NVEmbedModel.from_section(section(backbone=backbone, pooling=pooling, lora={"enabled": False}))
    together = model.encode(TEXTS, INSTRUCTION)
    alone = np.concatenate([model.encode([text], INSTRUCTION) for text in TEXTS])
    assert furthest(together, alone) < 1e-6


def test_a_neighbour_moves_nothing(section: Section) -> None:
    model = NVEmbedModel.from_section(section())
    batches = [model.collate(model.tokenize(["who built it?", other])) for other in ("a" * 40, "b" * 40)]
    with torch.no_grad():
        one, other = (model(*batch)[0] for batch in batches)
    assert float((one - other).abs().max()) < 1e-6


def test_vectors_are_float32_of_norm_1_under_bf16_too(section: Section) -> None:
    model = NVEmbedModel.from_section(section(backbone=MINILM))
    exact, rough = model.encode(TEXTS), model.encode(TEXTS, precision="bfloat16")
    assert exact.dtype == rough.dtype == np.float32
    assert np.abs(np.linalg.norm(rough, axis=1) - 1).max() < 1e-5
    assert 0 < furthest(exact, rough) < 0.02


def test_an_instruction_changes_the_vector_and_its_own_words_are_not_pooled(section: Section) -> None:
    model = NVEmbedModel.from_section(section(pooling="mean", attention="causal"))
    (item,) = model.tokenize(["who"], INSTRUCTION)
    ids, attended, _ = model.collate([item])
    with torch.no_grad():
        states = model.backbone(input_ids=ids, attention_mask=attended).last_hidden_state[0]
        by_hand = torch.nn.functional.normalize(states[-4:].mean(0), dim=0)  # w, h, o, </s>
    assert furthest(model.encode(["who"], INSTRUCTION), by_hand.numpy()[None]) < 1e-6
    assert furthest(model.encode(["who"], INSTRUCTION), model.encode(["who"])) > 1e-3


def test_last_pooling_takes_the_end_token(section: Section) -> None:
    model = NVEmbedModel.from_section(section(pooling="last"))
    ids, attended, _ = model.collate(model.tokenize(["who", "a longer one"]))
    with torch.no_grad():
        states = model.backbone(input_ids=ids, attention_mask=attended).last_hidden_state
        by_hand = torch.nn.functional.normalize(states[torch.arange(2), attended.sum(1) - 1], dim=-1)
    assert furthest(model.encode(["who", "a longer one"]), by_hand.numpy()) < 1e-6


def test_minilm_by_its_card_is_plain_mean_pooling_of_all_tokens() -> None:
    from transformers import AutoModel, AutoTokenizer

    from nvembed.modeling.source import find_source

    folder = find_source(MINILM).location
    tokens = AutoTokenizer.from_pretrained(folder)(["who built it?"], return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0]
    by_hand = torch.nn.functional.normalize(states.mean(0), dim=0).numpy()[None]
    assert furthest(NVEmbedModel.from_card(MINILM).encode(["who built it?"]), by_hand) < 1e-6


def test_an_identity_block_starts_from_the_backbones_own_quality(section: Section) -> None:
    latent = {"num_latents": 8, "num_heads": 2, "head_dim": 16, "init": "identity"}
    started = NVEmbedModel.from_section(section(backbone=MINILM, latent=latent))
    assert furthest(started.encode(TEXTS), NVEmbedModel.from_card(MINILM).encode(TEXTS, max_length=96)) < 1e-6


@pytest.mark.parametrize("lora", [True, False])
def test_what_is_trained_has_gradients_and_nothing_else(section: Section, lora: bool) -> None:
    model = NVEmbedModel.from_section(section(lora={"enabled": lora, "rank": 2, "dropout": 0.0}), trainable=True)
    model(*model.collate(model.tokenize(TEXTS, INSTRUCTION))).sum().backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == set(model.trained_names)
    of_backbone = {name for name in with_gradient if name.startswith("backbone.")}
    assert all(("lora_" in name) == lora for name in of_backbone)
    # all seven linear kinds of both layers carry adapters
    assert len(of_backbone) == (2 * 7 * 2 if lora else len(list(model.backbone.parameters())))
    assert model.training
    assert not NVEmbedModel.from_section(section()).training


def test_building_leaves_the_callers_random_state_alone_and_is_seeded(section: Section) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one = NVEmbedModel.from_section(section())
    assert torch.equal(torch.rand(3), expected)
    assert one.fingerprint() == NVEmbedModel.from_section(section()).fingerprint()
    assert one.fingerprint() != NVEmbedModel.from_section(section(seed=18)).fingerprint()


def test_adapters_start_without_effect(section: Section) -> None:
    bare = NVEmbedModel.from_section(section(lora={"enabled": False}, pooling="mean"))
    assert furthest(NVEmbedModel.from_section(section(pooling="mean")).encode(TEXTS), bare.encode(TEXTS)) < 1e-6


def test_merged_weights_equal_base_plus_adapters(section: Section, stirred: Stir) -> None:
    model = stirred(NVEmbedModel.from_section(section(pooling="mean")))
    bare = NVEmbedModel.from_section(section(lora={"enabled": False}, pooling="mean"))
    untrained = bare.encode(TEXTS)
    bare.backbone.load_state_dict(merged_state(model.backbone))
    assert furthest(model.encode(TEXTS), untrained) > 1e-3, "the adapters do nothing: this test would prove nothing"
    assert furthest(model.encode(TEXTS), bare.encode(TEXTS)) < 1e-5


@pytest.mark.parametrize("lora", [True, False])
def test_trained_tensors_survive_a_round_trip(section: Section, stirred: Stir, tmp_path: Path, lora: bool) -> None:
    asked = section(lora={"enabled": lora, "rank": 4})
    model = stirred(NVEmbedModel.from_section(asked, trainable=True))
    file = model.save_trainable(tmp_path)
    assert file == tmp_path / "trainable.safetensors"
    assert set(load_file(file)) == set(model.trained_names)
    again = NVEmbedModel.from_section(asked, tmp_path)
    assert again.fingerprint() == model.fingerprint()
    assert furthest(again.encode(TEXTS), model.encode(TEXTS)) == 0
    assert furthest(again.encode(TEXTS), NVEmbedModel.from_section(asked).encode(TEXTS)) > 1e-3
    model.save_trainable(tmp_path / "elsewhere.safetensors")
    again.load_trainable(tmp_path / "elsewhere.safetensors")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_adapter_of_another_section_is_refused_and_the_tensor_named(section: Section, tmp_path: Path) -> None:
    NVEmbedModel.from_section(section()).save_trainable(tmp_path)
    with pytest.raises(UserError, match=r"latent\.latents has shape \(8, 32\), not \(9, 32\)"):
        NVEmbedModel.from_section(section(latent={"num_latents": 9, "num_heads": 2, "head_dim": 16}), tmp_path)
    with pytest.raises(UserError, match=r"tensor latent.* is unknown"):
        NVEmbedModel.from_section(section(pooling="mean"), tmp_path)
    with pytest.raises(UserError, match=r"tensor backbone.* is missing"):
        NVEmbedModel.from_section(section(lora={"enabled": False}), tmp_path)
    with pytest.raises(UserError, match="trained on backbone"):
        NVEmbedModel.from_section(section(backbone=MINILM), tmp_path)


def test_a_damaged_or_missing_adapter_is_refused(section: Section, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        NVEmbedModel.from_section(section(), tmp_path)
    file = NVEmbedModel.from_section(section()).save_trainable(tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        NVEmbedModel.from_section(section(), tmp_path)


def test_a_file_without_metadata_still_has_its_names_checked(section: Section, tmp_path: Path) -> None:
    file = NVEmbedModel.from_section(section()).save_trainable(tmp_path)
    tensors = load_file(file)
    tensors.pop("latent.latents")
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"tensor latent\.latents is missing"):
        NVEmbedModel.from_section(section(), tmp_path)


def test_a_saved_model_as_backbone_brings_its_block_and_its_text_rule(section: Section, tmp_path: Path) -> None:
    published = NVEmbedModel.from_pretrained(DATA / "nvembed-tiny")
    asked = section(backbone=str(DATA / "nvembed-tiny"))
    tuned = NVEmbedModel.from_section(asked, trainable=True)
    assert tuned.spec.layout == "nv-embed"
    assert furthest(tuned.encode(TEXTS, INSTRUCTION), published.encode(TEXTS, INSTRUCTION, 96)) < 1e-6
    assert {name.split(".")[0] for name in tuned.trained_names} == {"backbone", "latent"}
    tuned.save_trainable(tmp_path)
    again = NVEmbedModel.from_section(asked, tmp_path)
    assert furthest(again.encode(TEXTS), tuned.encode(TEXTS)) == 0


def test_a_saved_model_as_teacher_is_what_it_is() -> None:
    published = NVEmbedModel.from_pretrained(DATA / "nvembed-tiny")
    assert furthest(NVEmbedModel.from_card(str(DATA / "nvembed-tiny")).encode(TEXTS), published.encode(TEXTS)) == 0
