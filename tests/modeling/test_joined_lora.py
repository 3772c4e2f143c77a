"""A linear layer and its adapter as one operation: peft's values and gradients, and peft's own layer for all else."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import Linear
from torch import nn

from nvembed.modeling.joined_lora import JoinedLinear, _Joined, join_adapters


def adapted(*, dropout=0.0, bias=True, dtype=torch.float64):
    """A layer of peft's, its adapter moved from zero, and the same joined."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(12, 7, bias=bias))
    config = LoraConfig(r=3, lora_alpha=5, lora_dropout=dropout, target_modules=["0"])
    inject_adapter_in_model(config, layer)
    nn.init.normal_(layer[0].lora_B["default"].weight)
    theirs = layer.to(dtype)
    ours = copy.deepcopy(theirs)
    join_adapters(ours)
    return theirs, ours


def values_and_gradients(layer, x, **autocast):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", **(autocast or {"enabled": False})):
        out = layer(x)
    out.float().square().sum().backward()
    adapter = layer[0].lora_A["default"].weight.grad, layer[0].lora_B["default"].weight.grad
    return out, x.grad, *adapter


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12)], ids=["rows", "batches of rows"])
def test_values_and_gradients_are_pefts(bias, shape):
    theirs, ours = adapted(bias=bias)
    assert type(theirs[0]) is Linear and type(ours[0]) is JoinedLinear
    x = torch.randn(*shape, dtype=torch.float64)
    for expected, found in zip(values_and_gradients(theirs, x), values_and_gradients(ours, x), strict=True):
        torch.testing.assert_close(found, expected)
    assert ours[0].base_layer.weight.grad is None


def test_its_gradients_are_those_of_differences():
    x, down, up = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((4, 6), (2, 6), (5, 2)))
    weight, bias = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *some: _Joined.apply(some[0], weight, bias, *some[1:], 0.7), (x, down, up))


@pytest.mark.parametrize("half_base", [False, True])
def test_under_autocast_it_computes_in_bf16_and_the_adapters_gradients_are_float32(half_base):
    theirs, ours = adapted(dtype=torch.float32)
    if half_base:
        ours[0].base_layer.to(torch.bfloat16)
    x = torch.randn(40, 12)
    expected, found = (values_and_gradients(layer, x, dtype=torch.bfloat16) for layer in (theirs, ours))
    assert found[0].dtype == torch.bfloat16
    assert [gradient.dtype for gradient in found[1:]] == [torch.float32] * 3
    for one, other in zip(expected, found, strict=True):
        assert (one - other).float().norm() < 0.01 * one.float().norm()


def test_dropout_disabled_and_merged_adapters_are_left_to_peft():
    theirs, ours = adapted(dropout=0.5)
    x = torch.randn(64, 12, dtype=torch.float64)
    outputs = []
    for layer in (theirs, ours):
        torch.manual_seed(1)
        outputs.append(layer(x))
    assert torch.equal(*outputs), "the same masks"
    assert not torch.equal(outputs[0], ours.eval()(x))
    torch.testing.assert_close(ours(x), theirs.eval()(x))
    ours[0].enable_adapters(False)
    assert torch.equal(ours(x), ours[0].base_layer(x))
    ours[0].enable_adapters(True)
    expected = ours(x)
    ours[0].merge()
    torch.testing.assert_close(ours(x), expected)
