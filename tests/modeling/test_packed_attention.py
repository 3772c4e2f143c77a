"""The attention function by itself: what it hands to PyTorch's varlen kernel, and what it does where that cannot serve.

Without a GPU the kernel cannot run, but PyTorch's own Python around it can: its two inner operations are written out
for a CPU below.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from packed_models import TEXTS, apart, make_model, vectors
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from nvembed.modeling import packed_attention
from nvembed.modeling.packed_attention import NAME, Packed, by_runs, has_varlen, varlen, varlen_serves
from nvembed.training.chunks import make_chunk
from nvembed.training.engine import Encoder

LENGTHS = [7, 7, 5, 1, 1, 7]
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Attention(nn.Module):
    """What transformers' attention functions read off a module."""

    def __init__(self, *, causal: bool, groups: int) -> None:
        super().__init__()
        self.is_causal = causal
        self.num_key_value_groups = groups


def random_rows(heads: int, key_heads: int, width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    total = sum(LENGTHS)
    return [torch.randn(1, n, total, width, generator=generator) for n in (heads, key_heads, key_heads)]


def by_hand(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float, bias: Tensor | None = None
) -> Tensor:
    """Softmax attention of each text, head by head, in float64; shapes as in transformers' attention interface."""
    found = torch.zeros(query.shape[2], query.shape[1], query.shape[3], dtype=torch.float64)
    start = 0
    for length in LENGTHS:
        span = slice(start, start + length)
        for head in range(query.shape[1]):
            shared = head * key.shape[1] // query.shape[1]
            scores = query[0, head, span].double() @ key[0, shared, span].double().T * scale
            if bias is not None:
                scores = scores + bias[0, head, span, span].double()
            if causal:
                scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            found[span, head] = scores.softmax(-1) @ value[0, shared, span].double()
        start += length
    return found.unsqueeze(0)


@pytest.fixture
def flash_on_cpu() -> Iterator[list[dict[str, Any]]]:
    """FlashAttention's two operations for a CPU, by plain products; the arguments of each call are kept."""
    calls: list[dict[str, Any]] = []

    def texts(q, k, v, starts, causal, scale):
        """Of each text: its span, its (heads, tokens, width) rows, its softmax weights, the scale of its scores."""
        for start, end in zip(starts.tolist(), starts.tolist()[1:], strict=False):
            rows = [part[start:end].transpose(0, 1) for part in (q, k, v)]
            rows[1:] = [part.repeat_interleave(q.shape[1] // k.shape[1], dim=0) for part in rows[1:]]
            factor = q.shape[-1] ** -0.5 if scale is None else scale
            hidden = torch.ones(end - start, end - start).triu(1 if causal else end - start).bool()
            weights = (rows[0] @ rows[1].transpose(1, 2) * factor).masked_fill(hidden, -torch.inf).softmax(-1)
            yield slice(start, end), rows, weights, factor

    def forward(q, k, v, starts, key_starts, longest, key_longest, dropout, causal, debug, *, scale=None, **options):
        assert torch.equal(starts, key_starts) and starts.dtype == torch.int32 and longest == key_longest
        assert longest == int(starts.diff().max()) and int(starts[-1]) == len(q) and dropout == 0
        calls.append({"causal": causal, **options})
        out = torch.empty_like(q)
        for span, rows, weights, _ in texts(q, k, v, starts, causal, scale):
            out[span] = (weights @ rows[2]).transpose(0, 1)
        unused = torch.empty(0)
        return out, q.new_zeros(q.shape[1], len(q)), unused, unused, unused

    def backward(
        grad, q, k, v, out, lse, starts, key_starts, longest, key_longest, dropout, causal, *_, scale=None, **__
    ):
        found = [torch.empty_like(part) for part in (q, k, v)]
        for span, rows, weights, factor in texts(q, k, v, starts, causal, scale):
            above = grad[span].transpose(0, 1)
            by_weight = above @ rows[2].transpose(1, 2)
            by_score = weights * (by_weight - (by_weight * weights).sum(-1, keepdim=True)) * factor
            parts = (by_score @ rows[1], by_score.transpose(1, 2) @ rows[0], weights.transpose(1, 2) @ above)
            for whole, part in zip(found, parts, strict=True):
                whole[span] = part.unflatten(0, (whole.shape[1], -1)).sum(1).transpose(0, 1)
        return tuple(found)

    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", forward, "CPU")
    library.impl("_flash_attention_backward", backward, "CPU")
    yield calls
    library._destroy()


@pytest.mark.parametrize("mode", ["training", "encoding", "training, with a mask"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_attention_by_runs_is_attention_of_each_text_written_out(causal: bool, key_heads: int, mode: str) -> None:
    """In training it goes by products of its own, otherwise by the kernel."""
    rows = random_rows(4, key_heads)
    packed = Packed.of(torch.tensor(LENGTHS), torch.device("cpu"))
    module = Attention(causal=causal and "mask" not in mode, groups=4 // key_heads).train("training" in mode)
    longest = torch.ones(1, 1, 7, 7, dtype=torch.bool)
    mask = (longest.tril() if causal else longest) if "mask" in mode else None
    found = by_runs(module, *rows, mask, packed, {"scaling": 0.3})
    assert apart(found.double(), by_hand(*rows, causal=causal, scale=0.3)) < 1e-6


def test_attention_by_runs_takes_each_texts_own_part_of_a_bias() -> None:
    rows = random_rows(4, 4)
    bias = torch.randn(1, 4, sum(LENGTHS), sum(LENGTHS), generator=torch.Generator().manual_seed(6))
    packed = Packed.of(torch.tensor(LENGTHS), torch.device("cpu"))
    module = Attention(causal=False, groups=1)
    found = by_runs(module, *rows, None, packed, {"scaling": 0.3, "position_bias": bias})
    assert apart(found.double(), by_hand(*rows, causal=False, scale=0.3, bias=bias)) < 1e-6


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_varlen_kernel_is_called_for_the_same_attention(
    flash_on_cpu: list[dict[str, Any]], causal: bool, key_heads: int
) -> None:
    rows = [part.requires_grad_() for part in random_rows(4, key_heads)]
    packed = Packed.of(torch.tensor(LENGTHS), torch.device("cpu"))
    module = Attention(causal=causal, groups=4 // key_heads)
    found = varlen(module, *rows, packed, {"scaling": 0.3})
    expected = by_runs(module, *rows, None, packed, {"scaling": 0.3})
    assert apart(found, expected) < 1e-6
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(8))
    gradients = [torch.autograd.grad((mixed * weights).sum(), rows) for mixed in (found, expected)]
    assert max(apart(one, other) for one, other in zip(*gradients, strict=True)) < 1e-5
    assert flash_on_cpu[0]["causal"] == causal
    assert [flash_on_cpu[0][f"window_size_{side}"] for side in ("left", "right")] == [-1, 0 if causal else -1]


def test_the_calls_own_word_on_causality_goes_before_the_modules(flash_on_cpu: list[dict[str, Any]]) -> None:
    packed = Packed.of(torch.tensor(LENGTHS), torch.device("cpu"))
    for asked in (True, False):
        varlen(Attention(causal=not asked, groups=1), *random_rows(4, 4), packed, {"is_causal": asked})
    assert [call["causal"] for call in flash_on_cpu] == [True, False]


def test_this_pytorch_has_the_varlen_kernel_with_what_is_asked_of_it() -> None:
    inspect.signature(varlen_attn).bind(0, 0, 0, 0, 0, 0, 0, scale=None, window_size=(-1, 0), enable_gqa=True)
    assert has_varlen()


def test_a_model_hands_the_kernel_all_it_needs(flash_on_cpu: list[dict[str, Any]]) -> None:
    """From tokens to vectors through transformers' layers, with the kernel in every one of them."""

    def always_varlen(module, query, key, value, mask, *, nvembed_packed, **options):
        assert mask is None
        return varlen(module, query, key, value, nvembed_packed, options), None

    for name, attention in (("qwen3", "bidirectional"), ("mistral", "causal"), ("bert", "bidirectional")):
        model = make_model(name, attention)
        expected = vectors(model, TEXTS, packed=False)
        flash_on_cpu.clear()
        AttentionInterface.register(NAME, always_varlen)
        try:
            assert apart(vectors(model, TEXTS, packed=True), expected) < 1e-6
        finally:
            AttentionInterface.register(NAME, packed_attention.packed_attention)
        assert [call["causal"] for call in flash_on_cpu] == [attention == "causal"] * 3


def test_under_autocast_the_kernel_gets_half_precision(flash_on_cpu: list[dict[str, Any]]) -> None:
    """Autocast does not know the kernel, and rotary positions make float32 of what the projections gave."""
    query, key, value = random_rows(4, 2)
    packed = Packed.of(torch.tensor(LENGTHS), torch.device("cpu"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = varlen(Attention(causal=False, groups=2), query, key, value.bfloat16(), packed, {"scaling": 0.3})
    assert found.dtype == torch.bfloat16
    assert apart(found.double(), by_hand(query, key, value, causal=False, scale=0.3)) < 3e-2


class OnGpu:
    """What the choice of a kernel looks at in a tensor."""

    is_cuda = True
    device = torch.device("cuda", 0)

    def __init__(self, width: int = 128, dtype: torch.dtype = torch.bfloat16) -> None:
        self.shape, self.dtype = torch.Size([1, 8, 100, width]), dtype


@pytest.mark.parametrize(
    ("served", "tensor", "mask", "options"),
    [
        (True, OnGpu(), None, {"dropout": 0.0, "softcap": None, "position_bias": None}),
        (True, OnGpu(256, torch.float16), None, {}),
        (False, OnGpu(dtype=torch.float32), None, {}),
        (False, OnGpu(264), None, {}),
        (False, OnGpu(68), None, {}),
        (False, OnGpu(), torch.ones(1, 1, 9, 9, dtype=torch.bool), {}),
        (False, OnGpu(), None, {"dropout": 0.1}),
        (False, OnGpu(), None, {"softcap": 50.0}),
        (False, OnGpu(), None, {"position_bias": torch.zeros(1)}),
        (False, torch.zeros(1, 8, 100, 128, dtype=torch.bfloat16), None, {}),
    ],
)
def test_the_kernel_is_chosen_where_it_can_serve(
    monkeypatch: pytest.MonkeyPatch, served: bool, tensor: Any, mask: Tensor | None, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert varlen_serves(tensor, tensor, tensor, mask, options) == served
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not varlen_serves(tensor, tensor, tensor, mask, options)


def operations(vector: Tensor) -> set[str]:
    """Names of what a backward pass will go through."""
    found: set[str] = set()
    seen: set[Any] = set()
    left = [vector.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found.add(node.name())
            left += [after for after, _ in node.next_functions]
    return found


@pytest.mark.parametrize("packed", [True, False])
def test_training_on_a_cpu_takes_plain_products_for_short_texts_and_the_fused_kernel_for_long(packed: bool) -> None:
    model = make_model(max_position_embeddings=1024).train()
    encoder = Encoder(model, "float32", packed=packed)
    for text, fused in (("short", False), ("long " * (110 if packed else 40), True)):
        (item,) = model.tokenize([text], max_length=1024)
        found = operations(encoder([make_chunk(model, [item], [0], 7, packed=packed)]))
        assert any("FlashAttentionForCpu" in name for name in found) == fused


def test_dropout_repeats_when_a_packed_chunk_is_encoded_again() -> None:
    """What a gradient cache relies on; dropout of the attention itself goes run by run."""
    model = make_model("bert", attention_probs_dropout_prob=0.3, hidden_dropout_prob=0.2).train()
    encoder = Encoder(model, "float32", packed=True)
    tokens = model.tokenize(TEXTS)
    chunks = [
        make_chunk(model, tokens, [0, 3, 5], 7, packed=True),
        make_chunk(model, tokens, [1, 2, 4], 8, packed=True),
    ]
    with torch.no_grad():
        before = encoder(chunks)
    again = torch.cat([encoder([chunk]) for chunk in chunks])
    assert torch.equal(before, again)
    assert apart(before, encoder([make_chunk(model, tokens, [0, 3, 5], 9, packed=True), chunks[1]])) > 1e-3


def test_a_packed_chunk_without_texts_keeps_pace_with_other_ranks() -> None:
    model = make_model().train()
    empty = make_chunk(model, model.tokenize(TEXTS), [], 7, packed=True)
    assert empty.rows.tolist() == [] and empty.input_ids.shape == (1,) and empty.attention_mask.tolist() == [1]
    (0 * Encoder(model, "float32", packed=True)([empty])).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_on_a_cpu_training_packs_and_encoding_does_not_unless_asked_to() -> None:
    model = make_model()
    assert not model.packs("bfloat16")
    assert Encoder(model, "bfloat16").packed and Encoder(model, "float32").packed
    assert [part.ndim for part in model.collate(model.tokenize(TEXTS))] == [2, 2, 2]
    assert [part.ndim for part in model.collate(model.tokenize(TEXTS), packed=True)] == [1, 1, 1]


def test_on_a_cpu_training_takes_small_packed_chunks_whatever_the_budget() -> None:
    encoder = Encoder(make_model(), "float32")
    lengths = [700, 30, 700, 600, 500]
    assert encoder.batches(lengths, 10**6) == [[0, 2, 3], [4, 1]]
    assert encoder.batches(lengths, 700) == [[0], [2], [3], [4, 1]]


@on_gpu
@pytest.mark.parametrize(
    ("name", "attention"), [("qwen3", "bidirectional"), ("mistral", "causal"), ("bert", "bidirectional")]
)
def test_on_a_gpu_packed_vectors_and_gradients_are_the_padded_ones(name: str, attention: str) -> None:
    model = make_model(name, attention).to("cuda")
    assert model.packs("bfloat16") and not model.packs("float32")
    weights = torch.randn(len(TEXTS), model.dim, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    found = []
    for packed in (True, False):
        model.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            made = vectors(model, TEXTS, packed=packed)
        (made * weights).sum().backward()
        found.append((made.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    assert apart(found[0][0], found[1][0]) < 3e-2
    assert float((found[0][1] - found[1][1]).norm() / found[1][1].norm()) < 5e-2


@on_gpu
@torch.no_grad()
def test_on_a_gpu_a_text_alone_is_the_text_in_a_pack() -> None:
    model = make_model(initializer_range=0.02).to("cuda", torch.bfloat16)
    together = vectors(model, TEXTS, packed=True)
    alone = torch.cat([vectors(model, [text], packed=True) for text in TEXTS])
    assert apart(together, alone) < 5e-3
    others = [TEXTS[0], *["c" * len(text.encode()) for text in TEXTS[1:]]]
    assert apart(together[:1], vectors(model, others, packed=True)[:1]) < 1e-6
