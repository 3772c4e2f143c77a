"""Self-attention pooling: the formula by hand, texts isolated, padded and packed forms alike, trained and saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from modeling_helpers import INSTRUCTION, MINILM, TEXTS, furthest
from safetensors.torch import load_file

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.modeling import batching, check_section
from nvembed.modeling.self_attention import SelfAttention
from nvembed.recipe import Model

Section = Callable[..., Model]
Stir = Callable[[NVEmbedModel], NVEmbedModel]
LENGTHS = [5, 1, 3]


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def by_hand(p: dict[str, np.ndarray], text: np.ndarray, heads: int) -> np.ndarray:
    """`h + W_out·MHA(LN(h))`, then `h + FF(LN(h))` with a GEGLU, token by token and head by head: one text alone."""
    normed = layer_norm(text, p["norm.weight"], p["norm.bias"])
    query, key, value = np.split(normed @ p["attend.to_qkv.weight"].T, 3, axis=-1)
    width = query.shape[-1] // heads
    states = []
    for place, h in enumerate(text):
        mixed = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = np.array([query[place, part] @ other[part] for other in key]) / math.sqrt(width)
            weights = np.exp(scores - scores.max())
            mixed.append(weights / weights.sum() @ value[:, part])
        h = h + p["attend.to_out.weight"] @ np.concatenate(mixed)
        inside = p["feed.fn.net.0.weight"] @ layer_norm(h, p["feed.norm.weight"], p["feed.norm.bias"])
        inside = inside + p["feed.fn.net.0.bias"]
        half = inside.shape[0] // 2
        states.append(h + p["feed.fn.net.2.weight"] @ (inside[:half] * gelu(inside[half:])) + p["feed.fn.net.2.bias"])
    return np.stack(states)


def drawn_layer(heads: int = 2, head_dim: int | None = None) -> SelfAttention:
    torch.manual_seed(3)
    layer = SelfAttention(16, num_heads=heads, head_dim=head_dim, ff_mult=3)
    for parameter in layer.parameters():  # norms too: at their start a swapped weight and bias would not show
        torch.nn.init.normal_(parameter, std=0.5)
    return layer.double()


def padded(rows: torch.Tensor, filling: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed states of `LENGTHS` as a padded batch and its mask."""
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)
    states = torch.full((*mask.shape, rows.shape[-1]), filling, dtype=rows.dtype)
    states[mask] = rows
    return states, mask


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(sum(LENGTHS), 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("heads", "head_dim"), [(2, None), (3, 8), (1, 24)])
def test_the_layer_equals_the_formula_on_each_text_alone(rows: torch.Tensor, heads: int, head_dim: int | None) -> None:
    layer = drawn_layer(heads, head_dim)
    parameters = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    expected = np.concatenate([by_hand(parameters, text.numpy(), heads) for text in rows.split(LENGTHS)])
    with torch.no_grad():
        packed = layer.forward_packed(rows, torch.tensor(LENGTHS)).numpy()
        states, mask = padded(rows)
        unpacked = layer(states, mask)
    assert np.abs(packed - expected).max() < 1e-10 * np.abs(expected).max()
    assert np.abs(unpacked[mask].numpy() - expected).max() < 1e-10 * np.abs(expected).max()
    assert float(unpacked[~mask].abs().max()) == 0
    single = {name: tensor.float() for name, tensor in layer.state_dict().items()}
    layer.float().load_state_dict(single)
    with torch.no_grad():
        assert np.abs(layer.forward_packed(rows.float(), torch.tensor(LENGTHS)).numpy() - expected).max() < 1e-4


def test_padded_and_packed_forms_have_equal_gradients(rows: torch.Tensor) -> None:
    layer = drawn_layer()
    target = torch.randn_like(rows)
    states, mask = padded(rows)
    packed = (layer.forward_packed(rows, torch.tensor(LENGTHS)) * target).sum()
    unpacked = (layer(states, mask)[mask] * target).sum()
    parameters = list(layer.parameters())
    pairs = zip(torch.autograd.grad(packed, parameters), torch.autograd.grad(unpacked, parameters), strict=True)
    assert all((one - other).abs().max() < 1e-10 * one.abs().max() for one, other in pairs)


@torch.no_grad()
def test_a_token_moves_its_whole_text_and_no_other_and_padding_moves_nothing(rows: torch.Tensor) -> None:
    layer = drawn_layer()
    before = layer.forward_packed(rows, torch.tensor(LENGTHS))
    changed = rows.clone()
    changed[4] *= -1  # the last token of the first text
    moved = (layer.forward_packed(changed, torch.tensor(LENGTHS)) - before).abs().amax(1)
    assert float(moved[:5].min()) > 1e-6
    assert float(moved[5:].max()) == 0
    one, other = (layer(*padded(rows, filling)) for filling in (0.0, 100.0))
    assert torch.equal(one, other)


@torch.no_grad()
def test_an_empty_row_of_a_padded_batch_gives_zeros_and_disturbs_nobody(rows: torch.Tensor) -> None:
    layer = drawn_layer()
    states, mask = padded(rows)
    with_empty = layer(torch.cat([states, states[:1]]), torch.cat([mask, torch.zeros_like(mask[:1])]))
    assert torch.equal(with_empty[:3], layer(states, mask))
    assert float(with_empty[3].abs().max()) == 0


def test_a_layer_started_as_identity_changes_nothing_and_still_learns(rows: torch.Tensor) -> None:
    layer = SelfAttention(16, num_heads=2, identity=True).double()
    assert torch.equal(layer.forward_packed(rows, torch.tensor(LENGTHS)), rows)
    layer.forward_packed(rows, torch.tensor(LENGTHS)).square().sum().backward()
    assert all(
        layer.get_parameter(f"{name}.weight").grad.abs().max() > 0 for name in ("attend.to_out", "feed.fn.net.2")
    )


def test_the_vector_is_the_mean_of_the_layers_states_over_the_pooled_tokens(section: Section) -> None:
    model = NVEmbedModel.from_section(section(pooling="self-attention", self_attention={"num_heads": 2}))
    ids, attended, _ = model.collate(model.tokenize(["who"], INSTRUCTION), packed=False)
    parameters = {name: tensor.double().numpy() for name, tensor in model.self_attention.state_dict().items()}
    with torch.no_grad():
        states = model.backbone(input_ids=ids, attention_mask=attended).last_hidden_state[0].double().numpy()
    mean = by_hand(parameters, states, heads=2)[-4:].mean(0)  # w, h, o, </s>
    assert furthest(model.encode(["who"], INSTRUCTION), (mean / np.linalg.norm(mean))[None]) < 1e-6


@pytest.mark.parametrize("backbone", ["random:mistral-tiny", MINILM])
def test_texts_alone_padded_and_packed_have_the_same_vectors(section: Section, backbone: str) -> None:
    model = NVEmbedModel.from_section(section(backbone=backbone, pooling="self-attention", max_length=96))
    tokenized = model.tokenize(TEXTS, INSTRUCTION)
    with torch.no_grad():
        together = model(*model.collate(tokenized, packed=False)).numpy()
        packed = model(*batching.pack(tokenized)).numpy()
        alone = torch.cat([model(*model.collate([item], packed=False)) for item in tokenized]).numpy()
    assert furthest(together, alone) < 1e-6
    assert furthest(packed, together) < 1e-6


def test_it_is_trained_saved_by_name_and_comes_back(section: Section, tmp_path: Path) -> None:
    asked = section(pooling="self-attention", self_attention={"num_heads": 4, "ff_mult": 2})
    model = NVEmbedModel.from_section(asked, trainable=True)
    untrained = model.encode(TEXTS)
    queries, documents = model.tokenize(["copper", "river"], INSTRUCTION), model.tokenize(["metal wire", "blue water"])
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        scores = model(*model.collate(queries)) @ model(*model.collate(documents)).T / 0.05
        loss = torch.nn.functional.cross_entropy(scores, torch.arange(2))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    file = model.save_trainable(tmp_path)
    layer = {name for name in load_file(file) if not name.startswith("backbone.")}
    assert layer == {f"self_attention.{name}" for name in model.self_attention.state_dict()}
    again = NVEmbedModel.from_section(asked, tmp_path)
    assert furthest(again.encode(TEXTS), model.encode(TEXTS)) == 0
    assert furthest(again.encode(TEXTS), untrained) > 1e-3


def test_a_saved_model_as_backbone_brings_its_layer(section: Section, stirred: Stir, tmp_path: Path) -> None:
    asked = section(pooling="self-attention", self_attention={"num_heads": 2}, lora={"enabled": False})
    model = stirred(NVEmbedModel.from_section(asked, trainable=True))
    folder = str(model.save_pretrained(tmp_path / "out"))
    other_sizes = section(backbone=folder, pooling="self-attention", self_attention={"num_heads": 8})
    assert furthest(NVEmbedModel.from_section(other_sizes).encode(TEXTS), model.encode(TEXTS)) < 1e-5
    as_mean = NVEmbedModel.from_section(section(backbone=folder, pooling="mean"))
    assert as_mean.self_attention is None
    assert furthest(as_mean.encode(TEXTS), model.encode(TEXTS)) > 1e-3


def test_models_that_differ_in_their_heads_alone_have_other_fingerprints(section: Section) -> None:
    """Their weights are equal, their vectors are not: a cache must not take one for the other."""
    asked = [section(pooling="self-attention", self_attention={"num_heads": heads}) for heads in (2, 4)]
    one, other = (NVEmbedModel.from_section(each) for each in asked)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert furthest(one.encode(["who"]), other.encode(["who"])) > 1e-6
    assert one.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"num_heads": 5}, "5 heads do not divide the backbone's width 32"), ({"num_heads": 64, "head_dim": 64}, "far")],
)
def test_sizes_that_make_no_sense_are_refused(section: Section, sizes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_section(section(pooling="self-attention", self_attention=sizes))
