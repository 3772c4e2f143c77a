"""`python -m nvembed.training.warmup`: start DeepSpeed once, so that the first training starts as fast as the next.

It reads DeepSpeed's and transformers' files into the disk cache and compiles them to bytecode. (Nothing of DeepSpeed's
own is compiled with a C++ compiler: `engine.load_deepspeed` says how that is avoided.) It also shows, at set-up rather
than in the middle of a run, whether ranks can start on this machine: exit code 1 and the reason if not.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from pathlib import Path

logger = logging.getLogger(__name__)


def main() -> int:
    """Take one step of one rank in this process; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            _one_step(Path(folder))
    except (RuntimeError, ImportError, OSError) as error:
        logger.error("DeepSpeed cannot start here: %s", error)
        return 1
    logger.info("DeepSpeed starts in %.1f s", time.monotonic() - began)
    return 0


def _one_step(folder: Path) -> None:
    import torch

    from nvembed.modeling import NVEmbedModel  # noqa: F401 - read into the cache what the ranks will import
    from nvembed.training.engine import load_deepspeed

    load_deepspeed("cpu")
    import deepspeed

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    deepspeed.init_distributed(
        dist_backend="gloo", init_method=f"file://{folder / 'store'}", rank=0, world_size=1, verbose=False
    )
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    engine, *_ = deepspeed.initialize(
        model=layer,
        optimizer=optimizer,
        config={"train_micro_batch_size_per_gpu": 1, "steps_per_print": 10**9},
        dist_init_required=False,
    )
    engine.backward(engine(torch.ones(1, 2)).sum())
    engine.step()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
