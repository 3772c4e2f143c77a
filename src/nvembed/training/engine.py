"""The DeepSpeed engine: start it, take the optimiser's state out by parameter name, put it back.

Trained weights are float32 and are their own master copies; low precision comes from autocast around the encoder (and,
on a GPU, from frozen weights kept in bfloat16). So every ZeRO stage runs the same numerics.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from nvembed.modeling.batching import autocast, token_batches

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel
    from nvembed.recipe import Stage
    from nvembed.training.chunks import Chunk

logger = logging.getLogger(__name__)
MOMENTS = ("exp_avg", "exp_avg_sq")
PLAIN_ATTENTION_TOKENS = 128  # of padded texts, on a CPU
CPU_CHUNK_TOKENS = 2048  # of packed texts: what a layer makes of more leaves the caches before it is read again
PATIENCE = timedelta(hours=2)  # what a rank waits for another: longer than any step, checkpoint or lock


class Encoder(nn.Module):
    """Chunks to vectors. This is what DeepSpeed wraps: all chunks of one backward pass go through one call.

    Args:
        model: the embedding model.
        precision: what it computes in; `bfloat16` by autocast.
        packed: whether chunks are to be packed; None: where it is faster. Settled here, while the weights are whole.
    """

    def __init__(
        self, model: NVEmbedModel, precision: Literal["float32", "bfloat16"], packed: bool | None = None
    ) -> None:
        super().__init__()
        self.packed = model.packs(precision, training=True) if packed is None else packed
        self.model = model
        self.precision = precision

    def batches(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        """Indices of texts, chunk by chunk, each of at most `budget` tokens."""
        if self.packed and self.model.device.type == "cpu":
            budget = min(budget, CPU_CHUNK_TOKENS)
        return token_batches(lengths, budget, packed=self.packed)

    def forward(self, chunks: list[Chunk]) -> torch.Tensor:
        """Vectors of the chunks' texts in chunk order: (n, dim) float32, rows of norm 1."""
        vectors = []
        for chunk in chunks:
            torch.manual_seed(chunk.seed)
            with autocast(self.precision, chunk.input_ids.device), self._attention_kernel(chunk):
                vectors.append(self.model(chunk.input_ids, chunk.attention_mask, chunk.pool_mask))
        return torch.cat(vectors)

    def _attention_kernel(self, chunk: Chunk) -> AbstractContextManager[Any]:
        """Attention by plain products for short texts on a CPU; packed texts choose for themselves.

        There the backward pass of the fused kernel takes half of a whole backward pass. Long texts keep it: plain
        products hold tokens² numbers a head. So does gradient checkpointing, whose second pass comes in the backward
        pass, outside this choice, and must make what the first one made.
        """
        from torch.nn.attention import SDPBackend, sdpa_kernel

        again = any(getattr(module, "gradient_checkpointing", False) for module in self.model.backbone.modules())
        padded = chunk.input_ids.device.type == "cpu" and chunk.input_ids.ndim == 2
        short = padded and chunk.longest <= PLAIN_ATTENTION_TOKENS
        return sdpa_kernel(SDPBackend.MATH) if short and not again else nullcontext()


def load_deepspeed(device: str) -> None:
    """Import DeepSpeed, quickly and quietly.

    Left out is what training never calls. On a CPU DeepSpeed would compile a shared-memory all-reduce at its start (a
    minute with a compiler, an error without), which serves tensor-parallel inference alone: an empty table of
    compatible operations makes it go without. Its autotuner would import mlflow, if there is one, for two seconds.
    """
    os.environ.setdefault("DS_ACCELERATOR", device)
    hidden = sys.modules.get("mlflow")
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # the import system's own word for "not to be had"
    try:
        import deepspeed
    finally:
        del sys.modules["mlflow"]
        if hidden is not None:
            sys.modules["mlflow"] = hidden
    for name in ("DeepSpeed", "deepspeed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if device == "cpu":
        deepspeed.ops.__compatible_ops__ = {}


def join_ranks(device: str) -> tuple[int, int, torch.device]:
    """Join the process group that torchrun describes; rank, number of ranks and this rank's device."""
    import deepspeed

    here = torch.device(device)
    if device == "cuda":
        here = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(here)
    backend = "nccl" if device == "cuda" else "gloo"
    deepspeed.init_distributed(dist_backend=backend, timeout=PATIENCE, verbose=False)
    return torch.distributed.get_rank(), torch.distributed.get_world_size(), here


def leave_ranks() -> None:
    """Wait for all ranks, then take the group down.

    A rank that ends while another still works may be aborted by its own network threads, and torchrun would then end
    the other one too, in the middle of writing the result.
    """
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def start_engine(encoder: Encoder, groups: list[dict[str, Any]], stage: Stage) -> Any:
    """A DeepSpeed engine with AdamW over parameter groups that carry their own learning rates."""
    import deepspeed

    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)
    config = {
        "train_micro_batch_size_per_gpu": 1,  # we divide the batch ourselves; one boundary a step
        "gradient_accumulation_steps": 1,
        "steps_per_print": 10**9,
        # By default the buffer that gradients travel in holds 500 million numbers, however few there are.
        "zero_optimization": {"stage": stage.zero_stage, "reduce_bucket_size": bucket_numbers(groups)},
        "zero_allow_untested_optimizer": True,
        # At stage 0 we clip ourselves, since DeepSpeed's clipping there does not tell the norm.
        "gradient_clipping": stage.max_grad_norm if stage.zero_stage else 0.0,
    }
    engine, *_ = deepspeed.initialize(model=encoder, optimizer=optimizer, config=config, dist_init_required=False)
    _make_optimizer_state(engine)
    if stage.zero_stage == 0 and engine.world_size == 1:
        engine.enable_backward_allreduce = False  # it would copy every gradient there and back for nobody
    return engine


def bucket_numbers(groups: list[dict[str, Any]]) -> int:
    """Numbers of the buffer that ZeRO gathers gradients in: all of them, up to DeepSpeed's own default."""
    return max(1, min(500_000_000, sum(p.numel() for group in groups for p in group["params"])))


def trained_parameters(engine: Any) -> dict[str, nn.Parameter]:
    """Trained parameters by their name in the embedding model, in the model's order."""
    return {name: p for name, p in engine.module.model.named_parameters() if p.requires_grad}


def clip_and_step(engine: Any, max_grad_norm: float) -> float:
    """Clip the gradients, take the optimiser's step; the gradients' norm before clipping.

    No weight and no moment changes where that norm is not finite, at any stage, and the gradients are gone either way.
    At stage 0 we look before the step and drop the gradients, which AdamW then passes over. Stages 1 to 3 have the
    gradients in partitions of their own; there DeepSpeed's step itself takes the norm over all ranks first, and leaves
    the step out if it is not finite. Raises RuntimeError should a version of DeepSpeed not do so.
    """
    if engine.zero_optimization_stage() == 0:
        parameters = list(trained_parameters(engine).values())
        norm = float(nn.utils.clip_grad_norm_(parameters, max_grad_norm))
        if not math.isfinite(norm):
            for parameter in parameters:
                parameter.grad = None
        engine.step()
        return norm
    engine.step()
    norm = float(engine.get_global_grad_norm())
    if not math.isfinite(norm) and not engine.optimizer.overflow:
        raise RuntimeError(f"DeepSpeed took a step with gradients of norm {norm}; use a version that leaves it out")
    return norm


def drop_gradients(engine: Any) -> None:
    """Forget the gradients of a step that is not taken. With ZeRO they must be no finite numbers: its step sees to it.

    Raises RuntimeError if they are finite after all, for then ZeRO has taken the step.
    """
    if engine.zero_optimization_stage() == 0:
        for parameter in trained_parameters(engine).values():
            parameter.grad = None
    elif math.isfinite(clip_and_step(engine, 1.0)):
        raise RuntimeError("a batch whose loss is no finite number had finite gradients, and they were applied")


def gathered(engine: Any) -> AbstractContextManager[Any]:
    """Within this, the trained parameters are whole on every rank (only ZeRO 3 has to do something for it)."""
    import deepspeed

    if engine.zero_optimization_stage() < 3:
        return nullcontext()
    return deepspeed.zero.GatheredParameters(list(trained_parameters(engine).values()))


def export_state(engine: Any) -> dict[str, torch.Tensor]:
    """Trained weights and Adam moments by name, whole, on the CPU. To be called by all ranks."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    plain = engine.zero_optimization_stage() == 0
    tensors = {}
    for name, parameter in trained_parameters(engine).items():
        weight = parameter if plain else safe_get_full_fp32_param(parameter)
        tensors[f"weight/{name}"] = weight.detach().to("cpu", torch.float32)
        for key in MOMENTS:
            moment = engine.optimizer.state[parameter][key] if plain else safe_get_full_optimizer_state(parameter, key)
            tensors[f"{key}/{name}"] = moment.detach().to("cpu", torch.float32)
    return tensors


def load_weights(model: NVEmbedModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put a checkpoint's weights into the model, before the engine takes it over and makes its own copies."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors[f"weight/{name}"])


def load_moments(engine: Any, tensors: Mapping[str, torch.Tensor], step: int) -> None:
    """Put a checkpoint's Adam moments into a fresh engine, whose optimiser then counts `step` steps taken."""
    from deepspeed.utils import safe_set_full_optimizer_state

    plain = engine.zero_optimization_stage() == 0
    for tensor in _optimised_tensors(engine):
        _base_optimizer(engine).state[tensor]["step"].fill_(step)
    for name, parameter in trained_parameters(engine).items():
        for key in MOMENTS:
            moment = tensors[f"{key}/{name}"].to(engine.device)
            if plain:
                engine.optimizer.state[parameter][key].copy_(moment)
            else:
                safe_set_full_optimizer_state(parameter, moment, key)


def _make_optimizer_state(engine: Any) -> None:
    """Make the state that AdamW would make at its first step, so that it can be filled by name from the start.

    With several parameter groups DeepSpeed's ZeRO 1 and 2 link parameters to their state after the first group's
    first step, when the other groups have none, and never again.
    """
    state = _base_optimizer(engine).state
    for tensor in _optimised_tensors(engine):
        state[tensor]["step"] = torch.zeros((), dtype=torch.float32, device=tensor.device)
        for key in MOMENTS:
            state[tensor][key] = torch.zeros_like(tensor, memory_format=torch.preserve_format).detach()
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _base_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The AdamW that we made; ZeRO wraps it."""
    return engine.optimizer if engine.zero_optimization_stage() == 0 else engine.optimizer.optimizer


def _optimised_tensors(engine: Any) -> list[torch.Tensor]:
    """What AdamW keeps state of: the parameters, or with ZeRO this rank's flat partitions of them."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return list(trained_parameters(engine).values())
    zero = engine.optimizer
    return list(zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups)
