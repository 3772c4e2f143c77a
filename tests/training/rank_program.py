"""Runs under torchrun: takes steps with the real engine and keeps what came out, for a test to compare.

    rank_program.py CASES.json OUT

Each case: `name`, `zero` (stage), `budget` (tokens encoded at once), `model` and `stage` (recipe sections), `dataset`,
`init` (adapter to start from), `steps` (a number, or which ones), `at_once` (one backward pass through the very chunks
that the budget gives), `poison` (step → `loss` or `gradient`: which of the two becomes no number), `fault` (a key of
`FAULTS`: what is often wrong elsewhere, so that a test can show that it would be found). OUT gets `<name>.safetensors`
with the exported state and `<name>.json` with each step's record.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from nvembed.data import BatchSampler, read_examples, read_teacher_scores
from nvembed.modeling import NVEmbedModel
from nvembed.training import engine as engines
from nvembed.training import step as step_module
from nvembed.training.build import set_dropout
from nvembed.training.job import section
from nvembed.training.schedule import parameter_groups
from nvembed.training.step import Trainer


class AtOnce(Trainer):
    """Keeps the chunks and lets autograd through all of them."""

    def _cut(self, tokenized, step):
        chunks, _, stop = super()._cut(tokenized, step)
        return chunks, True, stop


class Poisoned(Trainer):
    """Makes the loss, or only its gradient, NaN in some steps, on the last rank alone."""

    poison: dict
    at = 0

    def _cut(self, tokenized, step):
        self.at = step
        return super()._cut(tokenized, step)

    def _loss(self, vectors, layout):
        what = self.poison.get(str(self.at)) if self.rank == self.world - 1 else None
        if what == "gradient":
            vectors.register_hook(lambda gradient: gradient * float("nan"))
        return super()._loss(vectors * float("nan") if what == "loss" else vectors, layout)


class MissingWorldSize(Trainer):
    """Forgets that the engine's mean over ranks divides the loss once more."""

    def _scaled(self, parts, layout):
        return super()._scaled(parts, layout) / self.world


class Drifting:
    """A seed that is another each time it is used."""

    value = 0

    def __int__(self):
        self.value += 1
        return self.value


class NotReplayed(Trainer):
    """Draws new dropout masks for the second pass of the gradient cache."""

    def _cut(self, tokenized, step):
        chunks, fits, stop = super()._cut(tokenized, step)
        return [replace(chunk, seed=Drifting()) for chunk in chunks], fits, stop


def detached_documents(local, rows):
    """Documents of all ranks, those of the others without gradient."""
    padded = torch.nn.functional.pad(local, (0, 0, 0, rows - len(local)))
    gathered = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, padded.detach().contiguous())
    gathered[dist.get_rank()] = padded
    return torch.cat(gathered)


FAULTS = {
    "missing world size": (MissingWorldSize, nullcontext),
    "detached documents": (Trainer, lambda: mock.patch.object(step_module, "gather_documents", detached_documents)),
    "dropout not replayed": (NotReplayed, nullcontext),
}


def run(case: dict, out: Path, rank: int, world: int, device: torch.device) -> None:
    stage = section({**case["stage"], "zero_stage": case["zero"], "micro_batch_tokens": case["budget"]})
    model = NVEmbedModel.from_section(section(case["model"]), case.get("init"), trainable=True)
    set_dropout(model.backbone, stage.backbone_dropout)
    encoder = engines.Encoder(model, "float32", packed=case.get("packed", False))
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    engine = engines.start_engine(
        encoder, parameter_groups(named, stage, is_latent=lambda name: name.startswith("latent.")), stage
    )
    engine.train()
    sampler = BatchSampler(read_examples(case["dataset"]), stage.batch_size, stage.seed, stage.task_types)
    teacher = read_teacher_scores(case["dataset"]) if stage.distillation.weight else None
    kind = AtOnce if case.get("at_once") else Poisoned if case.get("poison") else Trainer
    kind, patched = FAULTS[case["fault"]] if "fault" in case else (kind, nullcontext)
    trainer = kind(engine, sampler, stage, rank, world, device, teacher)
    trainer.poison = case.get("poison")
    cached = []
    cut = trainer._cut

    def watched(tokenized, step):
        chunks, fits, stop = cut(tokenized, step)
        packed = [chunk.input_ids.ndim == 1 for chunk in chunks]
        cached.append({"chunks": len(chunks), "fits": fits, "folded": model.latent.folded, "packed": packed})
        return chunks, fits, stop

    in_groups = trainer._in_groups

    def watched_groups(ready, step):
        groups = in_groups(ready, step)
        cached[-1]["groups"] = len(groups)
        return groups

    trainer._cut, trainer._in_groups = watched, watched_groups
    steps = case["steps"] if isinstance(case["steps"], list) else range(case["steps"])
    with patched():
        results = [trainer.step(step) for step in steps]
    records = [{**result.record, "bad": result.bad} for result in results]
    tensors = engines.export_state(engine)
    if rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / f"{case['name']}.safetensors")
        (out / f"{case['name']}.json").write_text(json.dumps({"records": records, "cut": cached}))


def main() -> None:
    cases, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(1)
    engines.load_deepspeed("cpu")
    rank, world, device = engines.join_ranks("cpu")
    for case in cases:
        run(case, out, rank, world, device)
    engines.leave_ranks()


if __name__ == "__main__":
    main()
