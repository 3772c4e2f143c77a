"""Packed texts: the same vectors and gradients as padded ones, and no text sees another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modeling_helpers import MINILM
from packed_models import CASES, TEXTS, apart, make_backbone, make_model, vectors

from nvembed import NVEmbedModel
from nvembed.modeling.batching import token_batches, tokens_held
from nvembed.modeling.packed_attention import Packed
from nvembed.modeling.packing import is_used, obstacle, positions, run_packed
from nvembed.modeling.pooling import pool, pool_packed
from nvembed.recipe import Model

cases = pytest.mark.parametrize(("name", "attention"), CASES)


def pack(rows: list[list[int]]) -> tuple[torch.Tensor, Packed]:
    ids = torch.tensor([token for row in rows for token in row])
    return ids, Packed.of(torch.tensor([len(row) for row in rows]), torch.device("cpu"))


@torch.no_grad()
def states(model: NVEmbedModel, rows: list[list[int]]) -> list[torch.Tensor]:
    """Token states of packed texts, text by text."""
    ids, packed = pack(rows)
    return list(run_packed(model.backbone, ids, packed).split(packed.lengths))


@cases
@torch.no_grad()
def test_a_packed_text_has_the_vector_of_the_padded_text(name: str, attention: str) -> None:
    model = make_model(name, attention)
    assert apart(vectors(model, TEXTS, packed=True), vectors(model, TEXTS, packed=False)) < 1e-6


@cases
def test_gradients_are_those_of_the_padded_form(name: str, attention: str) -> None:
    model = make_model(name, attention)
    weights = torch.randn(len(TEXTS), model.dim, generator=torch.Generator().manual_seed(1))
    found = []
    for packed in (True, False):
        model.zero_grad()
        (vectors(model, TEXTS, packed=packed) * weights).sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    one, other = found
    assert one.keys() == other.keys()
    largest = max(float(gradient.abs().max()) for gradient in other.values())
    assert max(apart(one[name], other[name]) for name in other) < 1e-5 * largest


@cases
def test_a_changed_neighbour_moves_nothing(name: str, attention: str) -> None:
    model = make_model(name, attention)
    kept = [1, 40, 50, 60, 70, 80, 2]
    before, after, beside = [1, 90, 91, 2], [1, 92, 93, 2], [1, 94, 2]
    one = states(model, [before, kept, beside, before])
    other = states(model, [after, kept, beside, after])
    assert apart(one[0], other[0]) > 1e-2
    assert apart(one[1], other[1]) < 1e-6
    assert apart(one[2], other[2]) < 1e-6


@pytest.mark.parametrize("name", ["mistral", "llama", "qwen2", "qwen3", "gemma2", "gemma3", "bert", "roberta"])
@torch.no_grad()
def test_positions_alone_would_let_a_neighbour_in(name: str) -> None:
    """What the packed form is for: transformers, told only where positions restart, lets texts see each other."""
    backbone = make_backbone(name)
    found = []
    for neighbour in ([1, 90, 91, 2], [1, 92, 93, 2]):
        ids, packed = pack([neighbour, [1, 40, 50, 60, 2]])
        places = positions(backbone, ids, packed).unsqueeze(0)
        hidden = backbone(input_ids=ids.unsqueeze(0), position_ids=places, use_cache=False)
        found.append(hidden.last_hidden_state[0, 4:])
    assert apart(*found) > 1e-2


@cases
def test_the_last_token_moves_position_0_of_a_bidirectional_model_only(name: str, attention: str) -> None:
    model = make_model(name, attention)
    found = [states(model, [[1, 90, 2], [1, 40, 50, 60, last], [1, 30, 2]])[1][0] for last in (2, 70)]
    moved = apart(*found)
    assert moved > 1e-3 if attention == "bidirectional" else moved == 0


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("pooling", ["latent", "mean", "last", "cls"])
@torch.no_grad()
def test_a_text_alone_equals_the_text_in_a_batch(pooling: str, packed: bool) -> None:
    model = make_model(pooling=pooling)
    together = vectors(model, TEXTS, packed=packed)
    alone = torch.cat([vectors(model, [text], packed=packed) for text in TEXTS])
    assert apart(together, alone) < 1e-6


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("backbone", ["random:mistral-tiny", MINILM])
@torch.no_grad()
def test_a_text_alone_equals_the_text_in_a_batch_in_bf16_too(backbone: str, packed: bool) -> None:
    model = NVEmbedModel.from_card(backbone, attention="bidirectional")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        together = vectors(model, TEXTS, packed=packed)
        alone = torch.cat([vectors(model, [text], packed=packed) for text in TEXTS])
    assert apart(together, alone) < 5e-3
    assert apart(together, vectors(model, TEXTS, packed=packed)) > 0, "this was float32: the test shows nothing"


@pytest.mark.parametrize("pooling", ["latent", "mean", "self-attention", "last", "cls"])
def test_pooling_by_segment_is_pooling_by_row(pooling: Any) -> None:
    """Texts with no pooled token and with one among them."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.tensor([5, 1, 3, 4, 1])
    attended = torch.arange(5) < lengths.unsqueeze(1)
    pooled = attended & (torch.rand(5, 5, generator=generator) < 0.5)
    pooled[0], pooled[1], pooled[3] = False, True, torch.tensor([False, True, False, False, False])
    hidden = torch.randn(5, 5, 6, generator=generator)
    by_row = pool(hidden, attended.long(), pooled & attended, pooling)
    assert apart(pool_packed(hidden[attended], lengths, pooled[attended], pooling), by_row) < 1e-6


@pytest.mark.parametrize("pooling", ["latent", "mean", "self-attention", "last", "cls"])
def test_states_in_bf16_are_pooled_in_float32(pooling: Any) -> None:
    half = torch.randn(1, 300, 6, generator=torch.Generator().manual_seed(2)).bfloat16()
    mask, lengths = torch.ones(1, 300, dtype=torch.bool), torch.tensor([300])
    for found, exact in (
        (pool(half, mask, mask, pooling), pool(half.float(), mask, mask, pooling)),
        (pool_packed(half[0], lengths, mask[0], pooling), pool_packed(half[0].float(), lengths, mask[0], pooling)),
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, exact)


@torch.no_grad()
def test_a_pad_token_inside_a_text_counts_no_position_in_roberta() -> None:
    model = make_model("roberta")
    row = [1, 40, 2, 50, 60]
    padded = model.backbone(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, 5, dtype=torch.long))
    assert apart(states(model, [[1, 30, 2], row])[1], padded.last_hidden_state[0]) < 1e-5


@pytest.mark.parametrize("name", ["mistral with a window", "gemma3", "bert"])
def test_recomputing_layers_in_the_backward_pass_keeps_texts_apart(name: str) -> None:
    """Gradient checkpointing runs a layer again when the packed forward pass is long over."""
    model = make_model(name, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.zero_grad()
        vectors(model, TEXTS, packed=True)[:, 0].sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.equal(*found)


def test_most_families_can_be_packed_and_what_cannot_is_found_out() -> None:
    for name, attention in CASES:
        assert obstacle(make_model(name, attention).backbone) is None, (name, attention)
    eager = make_model()
    eager.backbone.set_attn_implementation("eager")
    assert obstacle(eager.backbone) == "its attention cannot be replaced"
    with pytest.raises(RuntimeError, match="cannot take packed texts with attention 'eager'"):
        vectors(eager, TEXTS, packed=True)


def test_a_backbone_that_mixes_tokens_outside_its_attention_is_found_out() -> None:
    model = make_model()
    model.backbone.layers[1].register_forward_hook(lambda _, __, states: states + states.roll(1, dims=1))
    assert obstacle(model.backbone) == "a text moves with its neighbour"


def test_layers_that_are_not_told_of_the_packing_are_stopped_before_texts_see_each_other() -> None:
    model = make_model()
    attend = model.backbone.layers[1].self_attn
    attend.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {key: value for key, value in kwargs.items() if key != "nvembed_packed"}),
        with_kwargs=True,
    )
    with pytest.raises(RuntimeError, match="MistralAttention is not told that its batch is packed"):
        vectors(model, TEXTS, packed=True)
    assert "is not told" in (obstacle(model.backbone) or "")


def test_a_backbone_with_positions_of_its_own_is_found_out() -> None:
    model = make_model("bert")
    model.backbone.embeddings.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "position_ids": None}), with_kwargs=True
    )
    assert obstacle(model.backbone) == "a packed text differs from a padded one"


@cases
@torch.no_grad()
def test_padded_batches_on_a_cpu_are_transformers_own_to_the_bit(name: str, attention: str) -> None:
    untouched, model = make_backbone(name, attention), make_model(name, attention)
    assert is_used(model.backbone) and not is_used(untouched)
    ids, mask, _ = model.collate(model.tokenize(TEXTS))
    assert ids.ndim == 2, "on a CPU texts are padded"
    expected = untouched(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    found = model.backbone(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    # no `sdpa` of transformers caps scores as Gemma 2 does: there it is its `eager` form, up to rounding
    assert torch.equal(found, expected) if name != "gemma2" else apart(found, expected) < 1e-5


def test_a_packed_batch_is_filled_by_the_texts_own_tokens() -> None:
    lengths = [10, 60, 10, 10, 60, 10]
    assert token_batches(lengths, 100) == [[1], [4], [0, 2, 3, 5]]
    assert token_batches(lengths, 100, packed=True) == [[1], [4, 0, 2, 3, 5]]
    assert token_batches(lengths, 40, packed=True) == [[1], [4], [0, 2, 3, 5]], "a text longer than the budget is alone"


@pytest.mark.parametrize("packed", [True, False])
def test_batches_hold_every_text_once_within_the_budget(packed: bool) -> None:
    lengths = [(17 * i) % 97 + 1 for i in range(500)]
    for budget in (97, 500, 5000):
        batches = token_batches(lengths, budget, packed=packed)
        assert sorted(index for batch in batches for index in batch) == list(range(500))
        assert all(tokens_held(lengths, [batch], packed=packed) <= budget for batch in batches)
    assert tokens_held(lengths, batches, packed=True) == sum(lengths) < tokens_held(lengths, batches)


def test_a_padded_batch_is_closed_rather_than_filled_with_much_shorter_texts() -> None:
    assert token_batches([100] * 10 + [80, 79], 10_000) == [list(range(11)), [11]]
    assert token_batches([100] * 10 + [80, 79], 10_000, packed=True) == [list(range(12))]
    assert token_batches([100] * 9 + [80, 79], 10_000) == [list(range(11))], "a small one is filled all the same"


def test_nothing_of_it_is_written_into_a_saved_model(section: Callable[..., Model], tmp_path: Path) -> None:
    """Other programs, and transformers without this package's attention, must be able to load the folder."""
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    model = NVEmbedModel.from_section(section())
    assert is_used(model.backbone)
    model.save_pretrained(tmp_path / "model")
    configuration = (tmp_path / "model" / "config.json").read_text()
    assert "attn_implementation" not in configuration
    assert "nvembed_packed" not in configuration
    loaded: Any = AutoModel.from_pretrained(tmp_path / "model")
    assert loaded.embedding_model.config._attn_implementation == "sdpa"
    tool: Any = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert tool[0].auto_model.embedding_model.config._attn_implementation == "sdpa"
    model.backbone.save_pretrained(tmp_path / "backbone")
    assert "attn_implementation" not in (tmp_path / "backbone" / "config.json").read_text()
