"""What encoding some texts and differentiating costs, in bytes and in multiplications, without doing it.

The very code of the backbone, adapters and block runs forward and backward on fake tensors (PyTorch's own), which have
shapes and no contents: every allocation and every product is counted. Two depths and two batches are enough, since all
of it grows in straight lines with layers and with tokens; so a model of 32 layers takes seconds. What kernels allocate
inside themselves is not seen.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nvembed.modeling.assemble import Parts
from nvembed.modeling.batching import autocast
from nvembed.modeling.pooling import pool
from nvembed.modeling.sizes import meta_parts
from nvembed.training.build import enable_checkpointing

if TYPE_CHECKING:
    from nvembed.recipe import Model

_DEPTHS = (1, 2)
_TOKENS = 512  # of the smaller batch, at least
_USUAL_TOKENS = 1024  # of a call, where the latent block's form depends on it


@dataclass(frozen=True)
class Footprint:
    """Cost of one chunk, forward and backward, as straight lines in its tokens.

    Attributes:
        fixed_bytes: of memory at the peak that do not depend on tokens (casts of weights and the like).
        token_bytes: of memory at the peak, for each token.
        forward_flops, step_flops: floating-point operations for each token, forward alone and forward and backward,
            recomputation under gradient checkpointing included.
        call_flops: those of a call that do not depend on tokens (the latent block folded), forward and backward.
    """

    fixed_bytes: float
    token_bytes: float
    forward_flops: float
    step_flops: float
    call_flops: float

    def chunk_bytes(self, tokens: int) -> int:
        """Peak of a chunk of so many tokens, beyond weights and gradients."""
        return int(self.fixed_bytes + self.token_bytes * tokens)


def measure(
    model: Model,
    layers: int,
    *,
    length: int,
    precision: str,
    low: bool,
    plain_attention: bool,
    checkpointing: bool,
) -> Footprint:
    """The footprint of a section's model.

    Args:
        layers: of its backbone.
        length: tokens of each text; attention grows with it.
        precision: what it computes in, by autocast if `bfloat16`.
        low: frozen weights are bf16.
        plain_attention: by plain products, as short texts are on a CPU.
        checkpointing: gradient checkpointing of the backbone.
    """
    depths = _DEPTHS if layers > max(_DEPTHS) else (layers,)
    few = max(1, -(-_TOKENS // length))
    costs: dict[tuple[int, int], tuple[float, float, float]] = {}
    for depth in depths:
        parts, _ = meta_parts(model, depth)
        with _fake(parts, low) as run:
            if checkpointing:
                enable_checkpointing(parts.backbone)
            for texts in (few, 2 * few):
                counts = Counts(run.weights)
                with _kernel(plain_attention), counts:
                    out = run.forward(texts, length, precision, masked=plain_attention)
                    forward = counts.flops
                    counts.backward(out)
                costs[depth, texts] = (float(counts.peak), float(forward), float(counts.flops))
                run.forget_gradients()
    return _lines(costs, depths, (few, 2 * few), length, layers)


def _lines(
    costs: dict[tuple[int, int], tuple[float, float, float]],
    depths: tuple[int, ...],
    batches: tuple[int, int],
    length: int,
    layers: int,
) -> Footprint:
    """Slopes and offsets of the measured costs, carried on to all layers."""

    def line(which: int) -> tuple[float, float]:
        slopes, offsets = [], []
        for depth in depths:
            first, second = (costs[depth, texts][which] for texts in batches)
            slope = (second - first) / ((batches[1] - batches[0]) * length)
            slopes.append(slope)
            offsets.append(first - slope * batches[0] * length)
        return _onward(slopes, depths, layers), _onward(offsets, depths, layers)

    (bytes_slope, bytes_fixed), (forward, _), (step, call) = line(0), line(1), line(2)
    return Footprint(max(0.0, bytes_fixed), bytes_slope, forward, step, max(0.0, call))


def _onward(values: list[float], depths: tuple[int, ...], layers: int) -> float:
    if len(depths) == 1:
        return values[0]
    return values[0] + (layers - depths[0]) * (values[1] - values[0]) / (depths[1] - depths[0])


class _Run:
    """Parts made fake, and passes through them: as `NVEmbedModel.forward` without shapes that depend on contents."""

    def __init__(self, parts: Parts, low: bool) -> None:
        self.parts = parts
        self.modules: list[nn.Module] = [parts.backbone]
        self.modules += [block for block in (parts.latent, parts.self_attention) if block is not None]
        for module in self.modules:
            module.to_empty(device="cpu").train()
            for parameter in module.parameters():
                if low and not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()
        if parts.latent is not None:  # one form for all batches, or their costs would lie on two lines
            parts.latent.folded = parts.latent.folding_pays(_USUAL_TOKENS)

    @property
    def weights(self) -> Iterable[Tensor]:
        """Parameters and buffers."""
        return [tensor for module in self.modules for tensor in (*module.parameters(), *module.buffers())]

    def forward(self, texts: int, length: int, precision: Any, *, masked: bool) -> Tensor:
        """A scalar from the vectors of so many texts of so many tokens.

        Fused attention gets no mask: packed texts need none, and fake ones of equal length would not go without.
        """
        ids = torch.zeros(texts, length, dtype=torch.long)
        mask = torch.ones_like(ids)
        config = self.parts.backbone.config
        cache = {"use_cache": False} if hasattr(config, "use_cache") else {}
        with autocast(precision, torch.device("cpu")):
            seen = mask if masked else None
            states = self.parts.backbone(input_ids=ids, attention_mask=seen, **cache).last_hidden_state
            if self.parts.latent is not None:
                chosen = states.flatten(0, 1)[torch.arange(texts * length)]
                rows = self.parts.latent(chosen)
                place = torch.ones(texts, length, 1, dtype=torch.bool)
                states = torch.zeros_like(states, dtype=rows.dtype).masked_scatter(place, rows)
            if self.parts.self_attention is not None:
                states = _through(self.parts.self_attention, states)
            with torch.autocast("cpu", enabled=False):
                vectors = nn.functional.normalize(pool(states, mask, mask, self.parts.spec.pooling), dim=-1)
        return vectors.sum()

    def forget_gradients(self) -> None:
        """Before the next pass."""
        for module in self.modules:
            module.zero_grad()


def _through(layer: Any, states: Tensor) -> Tensor:
    """Self-attention pooling over texts of like length, whose mask would not be known."""
    rows = states.flatten(0, 1)[torch.arange(states.shape[0] * states.shape[1])]
    found = layer.attend.to_qkv(layer.norm(rows)).unflatten(-1, (3, layer.attend.heads, -1))
    query, key, value = found.unflatten(0, states.shape[:2]).permute(2, 0, 3, 1, 4)
    mixed = nn.functional.scaled_dot_product_attention(query, key, value)
    rows = rows + layer.attend.to_out(mixed.transpose(1, 2).flatten(0, 1).flatten(1))
    return (rows + layer.feed(rows)).view_as(states)


class _fake:
    """Fake tensors for as long as it lasts."""

    def __init__(self, parts: Parts, low: bool) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        self.mode, self.parts, self.low = FakeTensorMode(allow_non_fake_inputs=True), parts, low

    def __enter__(self) -> _Run:
        self.mode.__enter__()
        return _Run(self.parts, self.low)

    def __exit__(self, *error: Any) -> None:
        self.mode.__exit__(*error)


@functools.cache
def _formulas() -> dict[Any, Any]:
    """Operations of each product by its arguments; PyTorch's registry lacks the fused attention of CPUs."""
    from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query.shape, key.shape, value.shape)

    def backward(out: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(out.shape, query.shape, key.shape, value.shape)

    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    again = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return {**flop_registry, fused: forward, again: backward}


def _kernel(plain: bool) -> Any:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


class Counts(TorchDispatchMode):
    """Bytes of all tensors that live, the most that ever did, and the operations of all products.

    `known` tensors and gradients of them do not count. PyTorch's own FlopCounterMode would do for the operations, but
    it keeps tensors alive.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._leaves = [tensor for tensor in known if tensor.requires_grad]
        self._seen: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils._pytree import tree_leaves

        out = func(*args, **(kwargs or {}))
        if (formula := _formulas().get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return out

    def backward(self, scalar: Tensor) -> None:
        """Differentiate. A weight's gradient leaves the count as soon as it is made: a plan counts it by itself."""
        handles = [leaf.register_post_accumulate_grad_hook(self._made()) for leaf in self._leaves]
        scalar.backward()
        for handle in handles:
            handle.remove()

    def _made(self) -> Callable[[Tensor], None]:
        def leave(leaf: Tensor) -> None:
            assert leaf.grad is not None
            storage = leaf.grad.untyped_storage()
            gone = self._seen.get(storage._cdata)
            if gone is not None:
                gone()
                self._seen[storage._cdata] = None

        return leave

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self.live += size
        self.peak = max(self.peak, self.live)

        def gone() -> None:
            self._seen.pop(key, None)
            self.live -= size

        self._seen[key] = weakref.finalize(storage, gone)
