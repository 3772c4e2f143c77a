"""The latent attention block: against an independent computation in float64, and as identity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nvembed.modeling import LatentAttention


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def block_by_hand(p: dict[str, np.ndarray], hidden: np.ndarray, heads: int) -> np.ndarray:
    """The published formula, head by head and token by token."""
    first, second = "cross_attend_blocks.0.", "cross_attend_blocks.1."
    inner = p[first + "fn.to_q.weight"].shape[0]
    width = inner // heads
    context = layer_norm(p["latents"], p[first + "norm_context.weight"], p[first + "norm_context.bias"])
    key_values = context @ p[first + "fn.to_kv.weight"].T
    keys, values = key_values[:, :inner], key_values[:, inner:]
    out = []
    for h in hidden:
        q = p[first + "fn.to_q.weight"] @ layer_norm(h, p[first + "norm.weight"], p[first + "norm.bias"])
        mixed = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = keys[:, part] @ q[part] / math.sqrt(width)
            weights = np.exp(scores - scores.max())
            mixed.append(weights / weights.sum() @ values[:, part])
        h = h + p[first + "fn.to_out.weight"] @ np.concatenate(mixed)
        inside = p[second + "fn.net.0.weight"] @ layer_norm(h, p[second + "norm.weight"], p[second + "norm.bias"])
        inside = inside + p[second + "fn.net.0.bias"]
        half = inside.shape[0] // 2
        gated = inside[:half] * gelu(inside[half:])
        out.append(h + p[second + "fn.net.2.weight"] @ gated + p[second + "fn.net.2.bias"])
    return np.stack(out)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(("heads", "head_dim"), [(2, 24), (3, 8), (1, None)])
def test_the_block_equals_the_published_formula(heads: int, head_dim: int | None, folded: bool) -> None:
    torch.manual_seed(3)
    block = LatentAttention(16, num_latents=5, num_heads=heads, head_dim=head_dim, ff_mult=3)
    block.folded = folded
    for parameter in block.parameters():  # norms too: at their start a swapped weight and bias would not show
        torch.nn.init.normal_(parameter)
    hidden = torch.randn(7, 16)
    by_hand = block_by_hand(
        {name: tensor.double().numpy() for name, tensor in block.state_dict().items()}, hidden.double().numpy(), heads
    )
    assert np.abs(block(hidden).detach().numpy() - by_hand).max() < 1e-4 * np.abs(by_hand).max()
    assert np.abs(block.double()(hidden.double()).detach().numpy() - by_hand).max() < 1e-10 * np.abs(by_hand).max()


def test_a_block_started_as_identity_changes_nothing_and_still_learns() -> None:
    torch.manual_seed(3)
    block = LatentAttention(16, num_latents=5, num_heads=2, head_dim=8, identity=True)
    hidden = torch.randn(3, 4, 16)
    assert torch.equal(block(hidden), hidden)
    block(hidden).square().sum().backward()
    projections = (block.cross_attend_blocks[0].fn.to_out, block.cross_attend_blocks[1].fn.net[2])
    assert all(layer.weight.grad.abs().max() > 0 for layer in projections)


def test_a_block_started_as_published_draws_standard_normal_latents_and_is_no_identity() -> None:
    torch.manual_seed(3)
    block = LatentAttention(16, num_latents=512, num_heads=2)
    hidden = torch.randn(3, 16)
    with torch.no_grad():
        assert abs(float(block.latents.std()) - 1) < 0.05
        assert float((block(hidden) - hidden).abs().max()) > 1e-2


def test_a_head_has_the_hidden_size_unless_told_otherwise() -> None:
    block = LatentAttention(16, num_latents=5, num_heads=8)
    assert block.cross_attend_blocks[0].fn.to_q.weight.shape == (128, 16)
    assert block.cross_attend_blocks[0].fn.to_kv.weight.shape == (256, 16)


def test_every_token_is_treated_by_itself() -> None:
    torch.manual_seed(3)
    block = LatentAttention(16, num_latents=5, num_heads=2).double()
    hidden = torch.randn(2, 3, 16, dtype=torch.float64)
    alone = torch.stack([torch.stack([block(token) for token in row]) for row in hidden])
    assert (block(hidden) - alone).abs().max() < 1e-12
