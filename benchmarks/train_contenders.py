"""The processes that `train.py` compares: each loads one trainer and takes one step for every line it is sent.

    python benchmarks/train_contenders.py NAME FOLDER

FOLDER holds `settings.json` and `batches.json`. A line on standard input is a JSON object of what to change before the
step (`mini_batch_size`, `mini_batch_num_tokens`, `micro_batch_tokens`); the answer tells its seconds, loss, gradient
norm and the process's peak memory so far. Both sides take the same batches in the same order, from the raw texts on:
tokenising is on the clock, and so are clipping and the optimiser's step.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TEMPERATURE, LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 0.05, 2e-5, 0.03, 1.0


def main() -> None:
    """Load the contender named on the command line, and answer until standard input ends."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not be taken for an answer
    import torch

    settings = json.loads((folder / "settings.json").read_text())
    batches = json.loads((folder / "batches.json").read_text())
    torch.set_num_threads(settings["threads"])
    commands = Commands(answers)
    (sentence_transformers if name.startswith("sentence-transformers") else nvembed_trainer)(
        name, settings, batches, commands
    )


class Commands:
    """The lines from `train.py`, and the answers to it."""

    def __init__(self, answers: Any) -> None:
        self._answers = answers
        self._began = self._worked = 0.0

    def wait(self) -> dict[str, Any] | None:
        """The next command, the clock started; None at the end."""
        line = sys.stdin.readline()
        self._began, self._worked = time.perf_counter(), time.process_time()
        return json.loads(line) if line.strip() else None

    def tell(self, **facts: Any) -> None:
        """One answer: seconds since the command, by the clock and of the processor, and peak memory so far."""
        spent = {"seconds": time.perf_counter() - self._began, "cpu_seconds": time.process_time() - self._worked}
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
        self._answers.write(json.dumps({**spent, "peak_gb": round(peak, 3), **facts}) + "\n")
        self._answers.flush()


def nvembed_trainer(name: str, settings: dict[str, Any], batches: list[list[list[str]]], commands: Commands) -> None:
    """This project's step, built as `nvembed.training.worker` builds it, one process."""
    import torch

    from nvembed.data import Example
    from nvembed.training import engine as engines
    from nvembed.training.build import build_encoder
    from nvembed.training.job import Job, section
    from nvembed.training.schedule import parameter_groups
    from nvembed.training.step import Trainer

    job = Job(
        name="stage1",
        **sections(settings),
        dataset="",
        init=None,
        state="",
        resume=None,
        made_by={},
        device="cpu",
        threads=settings["threads"],
    )
    alone()
    engines.load_deepspeed("cpu")
    rank, world, device = engines.join_ranks("cpu")
    stage = section(job.stage)
    encoder = build_encoder(job, device)
    named = {name: p for name, p in encoder.model.named_parameters() if p.requires_grad}
    groups = parameter_groups(named, stage, is_latent=lambda name: name.startswith("latent."))
    engine = engines.start_engine(encoder, groups, stage)
    engine.train()

    def example(row: list[str]) -> Example:
        return Example("docs", "retrieval", row[0], row[1], tuple(row[2:]), "", "", "", "", row[0])

    class Sampler:
        """The batches as they are, in order."""

        examples = ()

        def batch(self, step: int) -> list[Example]:
            return [example(row) for row in batches[step % len(batches)]]

    trainer = Trainer(engine, Sampler(), stage, rank, world, device)  # type: ignore[arg-type]
    commands.tell(trained=sum(p.numel() for p in named.values()))
    step = 0
    while (command := commands.wait()) is not None:
        stage.micro_batch_tokens = command.get("micro_batch_tokens", stage.micro_batch_tokens)
        record = trainer.step(step).record
        commands.tell(loss=record["loss"], grad_norm=record["grad_norm"])
        step += 1
    torch.distributed.destroy_process_group()


def sections(settings: dict[str, Any]) -> dict[str, Any]:
    """The recipe's model and stage sections that compute what the other side computes."""
    from nvembed.recipe import load_recipe

    overrides = {
        "model.backbone": settings["backbone"],
        "model.pooling": "mean",
        "model.precision": settings["precision"],
        "model.max_length": settings["max_length"],
        "model.lora.enabled": bool(settings["lora"]),
        "model.lora.rank": settings["lora"] or 16,
        "model.lora.dropout": 0.0,
        "stage1.batch_size": settings["batch"],
        "stage1.negatives": settings["negatives"],
        "stage1.query_max_length": settings["max_length"],
        "stage1.document_max_length": settings["max_length"],
        "stage1.temperature": TEMPERATURE,
        "stage1.learning_rate": LEARNING_RATE,
        "stage1.weight_decay": WEIGHT_DECAY,
        "stage1.max_grad_norm": MAX_GRAD_NORM,
        "stage1.steps": 1000,
        "stage1.warmup_steps": 1,
        "stage2.query_max_length": 16,
        "stage2.document_max_length": 16,
    }
    recipe = load_recipe("tiny", [f"{key}={json.dumps(value)}" for key, value in overrides.items()])
    return {"stage": recipe.stage1.model_dump(mode="json"), "model": recipe.model.model_dump(mode="json")}


def alone() -> None:
    """What torchrun tells a single rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def sentence_transformers(
    name: str, settings: dict[str, Any], batches: list[list[list[str]]], commands: Commands
) -> None:
    """Sentence Transformers' own trainer, with its cached loss or (name ends in "uncached") with the plain one."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.sentence_transformer import losses
    from torch.utils.data import SequentialSampler
    from transformers import PrinterCallback, TrainerCallback
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = sentence_model(settings)
    plain = name.endswith("uncached")
    kind = losses.MultipleNegativesRankingLoss if plain else losses.CachedMultipleNegativesRankingLoss
    loss = kind(model, scale=1 / TEMPERATURE)
    found: list[float] = []
    loss.register_forward_hook(lambda _module, _inputs, output: found.append(float(output.detach())))

    class OnCommand(TrainerCallback):
        """Holds the trainer after each step until the next command."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            commands.tell(trained=sum(p.numel() for p in model.parameters() if p.requires_grad))
            self._next(control)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "grad_norm" in logs:  # the line of a step, the last thing a step does
                commands.tell(loss=found[-1], grad_norm=float(logs["grad_norm"]))
                self._next(control)

        def _next(self, control: Any) -> None:
            command = commands.wait()
            control.should_training_stop = command is None
            for key, value in (command or {}).items():
                setattr(loss, key, value)

    columns = ["query", "positive", *(f"negative_{place}" for place in range(settings["negatives"]))]
    rows = [row for batch in batches for row in batch]
    with tempfile.TemporaryDirectory() as place:
        arguments = SentenceTransformerTrainingArguments(
            place,
            per_device_train_batch_size=settings["batch"],
            max_steps=1000,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=MAX_GRAD_NORM,
            bf16=settings["precision"] == "bfloat16",
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            batch_sampler=lambda dataset, **options: DefaultBatchSampler(SequentialSampler(dataset), **options),
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))),
            loss=loss,
            callbacks=[OnCommand()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def sentence_model(settings: dict[str, Any]) -> Any:
    """The backbone as Sentence Transformers loads it, dropout off.

    A decoder gets what has no say in the comparison from this project: attention that looks both ways, adapters, and
    a tokenizer that ends each text.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    from nvembed.modeling import NVEmbedModel
    from nvembed.modeling.source import find_source
    from nvembed.training.build import set_dropout
    from nvembed.training.job import section

    folder = find_source(settings["backbone"]).location
    if not settings["lora"]:
        model = SentenceTransformer(folder, device="cpu")
    else:
        ours = NVEmbedModel.from_section(section(sections(settings)["model"]), trainable=True)
        ours.backbone.set_attn_implementation("sdpa")
        transformer = Transformer(folder)
        transformer.model, transformer.processor = ours.backbone, ours.rule.tokenizer
        model = SentenceTransformer(modules=[transformer, Pooling(ours.dim, "mean")], device="cpu")
    model.max_seq_length = settings["max_length"]
    model.model_card_data.generate_widget_examples = False
    set_dropout(model, 0.0)
    return model


if __name__ == "__main__":
    main()
