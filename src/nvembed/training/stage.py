"""`train_stage`: one training stage from dataset folder to adapter folder.

The work is done by ranks under torchrun (`worker.py`), in a state folder named by what the result depends on. A stage
that was cut short goes on from its newest checkpoint; one that is complete there is not trained again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import Manifest, output_folder, read_manifest, write_manifest
from nvembed.core.digests import code_digest, digest_file, digest_json
from nvembed.core.errors import UserError, tell_full_disk
from nvembed.core.lifeline import tie_to_parent
from nvembed.core.progress import note
from nvembed.core.state import state_folder
from nvembed.data import BatchSampler, check_parts, open_examples
from nvembed.training.bad_steps import BAD_BATCHES
from nvembed.training.checkpoints import check_made_by, read_checkpoint
from nvembed.training.composition import Composition
from nvembed.training.dev_check import SCORE, decides
from nvembed.training.examples import stage_rows, told
from nvembed.training.history import METRICS, Record, mean, read_history, tell
from nvembed.training.job import Job
from nvembed.training.launch import run_workers
from nvembed.training.nodes import Elsewhere, train_elsewhere
from nvembed.training.places import check_ranks, device_here, threads_of
from nvembed.training.result import RESULT, TRAINABLE, read_result
from nvembed.training.settings import check_settings, settle

if TYPE_CHECKING:
    from nvembed.recipe import Model, Resources, Stage

logger = logging.getLogger(__name__)


def train_stage(
    name: str,
    stage: Stage,
    model: Model,
    resources: Resources,
    dataset: Path,
    init: Path | None,
    out: Path,
    *,
    resume: Path | None = None,
    eval_sets: Path | None = None,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Train one stage and write its adapter folder.

    Args:
        name: what the stage is called in metrics and progress (`stage1`, `stage2`).
        stage: batches, loss, optimiser, checkpoints.
        model: what is trained.
        resources: device, ranks and threads of this machine.
        dataset: a `dataset` or `mined` folder.
        init: the adapter folder to start from (its weights; the optimiser starts afresh), or None.
        out: the adapter folder to write, whole or not at all.
        resume: a checkpoint to go on from; None: the newest one of this very stage, if there is one.
        eval_sets: the `eval` folder whose dev split `stage.dev_check` looks at; without it there are no checks.
        elsewhere: brings up the nodes that train, and waits for them; None: the ranks run on this machine.

    Raises:
        UserError: too few examples, a missing or changed folder, an adapter or checkpoint of something else, no GPU
            where one is asked for, a full disk, a bad step that the recipe wants to stop at, no dev set where the
            stage's checks decide.
        RuntimeError: training failed; the message ends with the log's last lines.
    """
    tie_to_parent()
    check_settings(name, stage, model, resources)
    sections = {"stage": stage.model_dump(mode="json"), "model": model.model_dump(mode="json")}
    source, composition, without = _check_dataset(name, stage, dataset)
    made_by = {
        **sections,
        "dataset": source.content,
        "init": _check_init(init, sections["model"]) if init is not None else None,
        "backbone": _check_model(model),
        "code": code_digest(),
    }
    checked = _check_eval_sets(name, stage, eval_sets)
    if checked and decides(stage.dev_check):  # checks that only watch change nothing of what comes out
        made_by["eval_sets"] = checked
    check_ranks(stage, resources)
    device = resources.device if elsewhere else device_here(resources)
    if resume is not None:
        check_made_by(read_checkpoint(resume), made_by)
    state = state_folder("training", digest_json(made_by))
    if read_result(state) is None:
        job = Job(
            name=name,
            **sections,
            dataset=str(dataset.resolve()),
            init=str(init.resolve()) if init else None,
            state=str(state.resolve()),
            resume=str(resume.resolve()) if resume else None,
            made_by=made_by,
            device=device,
            threads=threads_of(resources),
            eval_sets=str(eval_sets.resolve()) if checked and eval_sets else None,
            without=without,
            peak_tflops=resources.peak_tflops,
        )
        with tell_full_disk(state):
            if elsewhere:
                train_elsewhere(job, resources, elsewhere)
            else:
                settled, _ = settle(name, stage, model, resources, device, dataset)
                replace(job, stage=settled).write(state / "job.json")
                run_workers(
                    state / "job.json",
                    device=device,
                    processes=resources.processes,
                    threads=job.threads,
                    log=state / "worker.log",
                )
    else:
        note(f"{name} was trained before; its result is taken from {state}")
        tell(read_history(state / METRICS), stage.log_steps)
    with tell_full_disk(out):
        _write_adapter(name, stage, state, made_by, source, composition, out)


def _write_adapter(
    name: str,
    stage: Stage,
    state: Path,
    made_by: Mapping[str, Any],
    source: Manifest,
    composition: Composition,
    out: Path,
) -> None:
    """Result and history of the state folder become the adapter folder."""
    from nvembed.training.report import write_report

    result = read_result(state)
    if result is None:
        raise RuntimeError(f"training ended, but {state / RESULT} is missing or damaged; log: {state / 'worker.log'}")
    records = read_history(state / METRICS)
    headline = {**_headline(name, records, result, stage), f"{name}.epochs": composition.epochs}
    with output_folder(out) as folder:
        shutil.copyfile(state / RESULT / TRAINABLE, folder / TRAINABLE)
        shutil.copyfile(state / METRICS, folder / METRICS)
        if (state / BAD_BATCHES).exists():
            shutil.copyfile(state / BAD_BATCHES, folder / BAD_BATCHES)
        kept = result["weights_of_step"] if decides(stage.dev_check) else None
        write_report(folder, name, records, headline, made_by["stage"], composition=composition, given=kept)
        write_manifest(
            folder,
            kind="adapter",
            section=made_by["stage"],
            inputs={key: made_by[key] for key in ("dataset", "init", "eval_sets") if made_by.get(key)},
            counts={
                "steps": result["steps"],
                "examples": result["steps"] * stage.batch_size,
                "skipped_steps": result["skipped"],
            },
            licenses=source.licenses,
            headline=headline,
            extra={
                "model": made_by["model"],
                "backbone_digest": made_by["backbone"],
                "precision": result["precision"],
                "processes": result["world"],
                "composition": composition.as_json(),
                "settings": result["settings"],
            },
        )


def _headline(name: str, records: list[Record], result: Mapping[str, Any], stage: Stage) -> dict[str, float]:
    """Loss over the last tenth of the steps, time, speed, steps; the dev check of the weights; steps left out."""
    last = mean(records[-max(1, len(records) // 10) :])
    steps, seconds = result["steps"], result["seconds"]
    headline = {
        f"{name}.seconds": seconds,
        f"{name}.examples_per_second": steps * stage.batch_size / seconds,
        f"{name}.steps": float(steps),
    }
    if "loss" in last:
        headline = {f"{name}.final_loss": last["loss"], **headline}
    checks = {record["step"]: record[SCORE] for record in records if SCORE in record}
    if result["weights_of_step"] in checks:
        headline[f"{name}.dev_ndcg_at_10"] = checks[result["weights_of_step"]]
    if decides(stage.dev_check):
        headline[f"{name}.weights_of_step"] = float(result["weights_of_step"])
    if result["skipped"]:
        headline[f"{name}.skipped_steps"] = float(result["skipped"])
    return headline


def _check_eval_sets(name: str, stage: Stage, eval_sets: Path | None) -> str | None:
    """Digest of the eval folder if the stage's checks are to be made; None if not, which is said."""
    if not stage.dev_check.every:
        return None
    content = read_manifest(eval_sets, kind="eval", verify=True).content if eval_sets else None
    if eval_sets and any((eval_sets / "dev").glob("*/qrels.parquet")):
        return content
    lacking = f"{eval_sets} has no dev queries" if eval_sets else "no eval sets are given (--eval-sets)"
    if decides(stage.dev_check):
        raise UserError(f"{name}.dev_check decides by dev queries, but {lacking}; give some or set every to 0")
    note(f"{name}.dev_check: {lacking}, so nothing is checked on dev while it trains")
    return None


def _check_dataset(name: str, stage: Stage, dataset: Path) -> tuple[Manifest, Composition, list[str]]:
    """The dataset's manifest, its files being what they were and enough of them, and what an epoch of it is.

    Says the latter, how many examples lack negatives, and what is left out as its sources are for the other stage; the
    names of all such sources come last.
    """
    source = read_manifest(dataset)
    if source.kind not in ("dataset", "mined"):
        raise UserError(f"{dataset}: holds a {source.kind}, but training needs a dataset or mined folder")
    check_parts(dataset, source.counts.get("train_examples", source.counts.get("examples")))
    read_manifest(dataset, verify=True)
    table = open_examples(dataset)
    found = stage_rows(name, stage, dataset, table)
    try:
        sampler = BatchSampler.of(stage, table, found.unseen)
    except UserError as error:
        raise UserError(f"{dataset}: {error}") from None
    negatives = table.negatives()[sampler.examples.rows]
    short = int((negatives < stage.negatives).sum())
    if short:
        note(
            f"{short} of {len(negatives)} examples have fewer than {stage.negatives} negatives; "
            "none is made up for them"
        )
    if said := told(name, found):
        note(said)
    composition = Composition.of(sampler, stage.steps)
    note(composition.summary())
    logger.info("what an epoch holds:\n%s", composition.table())
    return source, composition, found.unseen


def _check_init(init: Path, model: Mapping[str, Any]) -> str:
    """Digest of the adapter to start from. Raises UserError if another model section made it."""
    made_with = read_manifest(init, kind="adapter", verify=True).extra.get("model", {})
    differing = sorted(key for key in made_with.keys() | model.keys() if made_with.get(key) != model.get(key))
    if differing:
        what = "; ".join(f"model.{key} is {model.get(key)}, there {made_with.get(key)}" for key in differing)
        raise UserError(f"{init}: an adapter of another model section: {what}; train it anew with this one")
    if not (init / TRAINABLE).is_file():
        raise UserError(f"{init}: {TRAINABLE} is missing; make the folder anew")
    return digest_file(init / TRAINABLE)


def _check_model(model: Model) -> str:
    from nvembed.modeling import backbone_digest, check_section

    check_section(model)
    return backbone_digest(model)
