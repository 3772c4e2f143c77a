"""What one encoding does, checked and resolved once: the same on every device, and what caches and resumption name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import numpy as np
import torch

from nvembed.core.errors import UserError
from nvembed.modeling.batching import Precision, resolve_precision
from nvembed.modeling.packed_attention import HALF
from nvembed.modeling.vectors import STORED, Stored, check_dimensions, store, stored_shape

if TYPE_CHECKING:
    from nvembed.modeling.model import NVEmbedModel

EncodePrecision = Literal["auto", "float32", "bfloat16", "int8", "binary"]
BATCH_TOKENS = 16384


class PlanOptions(TypedDict, total=False):
    """What a caller may ask for.

    Keys:
        instruction: the task sentence alone, or a whole prefix of the template's shape; "": none.
        max_length: tokens of a text; None: the model's own.
        dimensions: columns kept, renormalised (`vectors.truncate`); None: all.
        precision: `float32` or `bfloat16` computes in it, `auto` in the one the device is faster at (on a GPU, weights
            kept in half precision stay what they are); `int8` and `binary` are forms of the stored vectors
            (`vectors.to_int8`, `vectors.to_binary`), computed as None is.
        batch_tokens: tokens of a batch, padding included; halved where memory runs out.
    """

    instruction: str
    max_length: int | None
    dimensions: int | None
    precision: EncodePrecision | None
    batch_tokens: int


@dataclass(frozen=True)
class Plan:
    """`PlanOptions` with nothing left open. `compute` "float32" is no autocast: the weights' own dtype."""

    instruction: str
    max_length: int
    batch_tokens: int
    compute: Literal["float32", "bfloat16"]
    stored: Stored
    dimensions: int

    def store(self, vectors: np.ndarray) -> np.ndarray:
        """float32 (n, dim) as it is to be kept."""
        return store(vectors, self.stored, self.dimensions)

    def empty(self, rows: int) -> np.ndarray:
        """Zeros in the shape and type of `rows` stored vectors."""
        width, dtype = stored_shape(self.stored, self.dimensions)
        return np.zeros((rows, width), dtype)

    def settings(self, model: NVEmbedModel) -> dict[str, Any]:
        """All that decides what vectors come out for a text, the model's weights aside. Plain JSON."""
        own = str(own_dtype(model)).removeprefix("torch.")
        return {
            "prefix": model.rule.prefix(self.instruction),
            "max_length": self.max_length,
            "computed_in": "bfloat16" if self.compute == "bfloat16" else own,
            "stored_as": self.stored,
            "dimensions": self.dimensions,
        }


def make_plan(
    model: NVEmbedModel,
    *,
    instruction: str = "",
    max_length: int | None = None,
    dimensions: int | None = None,
    precision: EncodePrecision | None = None,
    batch_tokens: int = BATCH_TOKENS,
    computed: Precision | None = None,
    devices: Sequence[str] | None = None,
) -> Plan:
    """Check and resolve a caller's options (see `PlanOptions`).

    `computed` says what None, `int8` and `binary` are computed in; None: the weights' own dtype. `devices`: where it
    will be computed; None: where the model lies.

    Raises UserError for a number out of range, an unknown precision or device, float32 asked of weights that are not,
    and an instruction that leaves no room for text.
    """
    if not isinstance(batch_tokens, int) or batch_tokens < 1:
        raise UserError(f"batch_tokens {batch_tokens!r}: give a positive whole number")
    if precision is not None and precision not in get_args(EncodePrecision):
        known = ", ".join(get_args(EncodePrecision))
        raise UserError(f"precision {precision!r} is unknown; known: {known}")
    if precision == "float32" and own_dtype(model) in HALF:
        found = str(own_dtype(model)).removeprefix("torch.")
        raise UserError(f"precision 'float32': the model's weights are {found}; load it with dtype=torch.float32")
    device = check_devices(devices)[0] if devices else model.device
    dimensions = model.dim if dimensions is None else dimensions
    check_dimensions(dimensions, model.dim)
    length = model.max_length if max_length is None else max_length
    model.tokenize([], instruction, length)
    stored: Stored = "float32"
    for form in STORED[1:]:
        if precision == form:
            stored, precision = form, computed
    compute: Any = precision or computed or "float32"
    if compute == "auto" and device.type == "cuda" and all(p.dtype in HALF for p in model.parameters()):
        compute = "float32"  # no autocast: a GPU is as fast in fp16, and bf16 would lose digits of the weights
    return Plan(
        instruction=instruction,
        max_length=length,
        batch_tokens=batch_tokens,
        compute=resolve_precision(compute, device),
        stored=stored,
        dimensions=int(dimensions),
    )


def own_dtype(model: NVEmbedModel) -> torch.dtype:
    """What the backbone's weights are kept in."""
    return next(model.backbone.parameters()).dtype


def check_devices(names: Sequence[str]) -> list[torch.device]:
    """torch's devices of these names. Raises UserError for a name it does not know and for a GPU that is not there."""
    if isinstance(names, str):
        raise UserError(f"devices: got the string {names!r}; give a list of names, [{names!r}] for one")
    devices = []
    for name in names:
        try:
            device = torch.device(name)
        except (RuntimeError, TypeError):
            raise UserError(f"device {name!r} is unknown; give cpu, cuda, or a GPU by number, as cuda:1") from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            there = torch.cuda.device_count()
            raise UserError(f"device {name!r}: this machine has {there} usable GPUs; take cpu or a number below that")
        devices.append(device)
    return devices
