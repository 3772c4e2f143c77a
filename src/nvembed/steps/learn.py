"""Tasks that make the model: data, hard negatives, the two training stages."""

from __future__ import annotations

from pathlib import Path

from nvembed.core.artifacts import read_manifest
from nvembed.recipe import Data, Mining, Model, Resources, Stage, section_from_json
from nvembed.steps.task import copy_report, task


def prepare_data(data: str, dataset: str, eval_sets: str, report: str | None = None) -> None:
    """Sources become training examples (`dataset`) and held-out sets (`eval_sets`)."""
    from nvembed.data import prepare

    section = section_from_json(Data, data)
    with task("prepare_data", section.model_dump(mode="json")) as run:
        prepare(section, Path(dataset), Path(eval_sets))
        for name, folder in (("train", dataset), ("eval", eval_sets)):
            run.log_dataset(name, read_manifest(folder))
        run.log_folder(Path(dataset))
        copy_report(Path(dataset), report)


def mine_hard_negatives(mining: str, resources: str, dataset: str, mined: str, report: str | None = None) -> None:
    """The teacher finds hard negatives for the dataset's retrieval examples."""
    from nvembed.mining import mine

    section = section_from_json(Mining, mining)
    with task("mine_hard_negatives", section.model_dump(mode="json")) as run:
        mine(section, section_from_json(Resources, resources), Path(dataset), Path(mined))
        run.log_dataset("mined", read_manifest(mined))
        run.log_folder(Path(mined))
        copy_report(Path(mined), report)


def train(
    name: str,
    stage: str,
    model: str,
    resources: str,
    dataset: str,
    adapter: str,
    init: str | None = None,
    report: str | None = None,
    resume: str | None = None,
    eval_sets: str | None = None,
) -> None:
    """One training stage; `init` is the stage before it, `adapter` where the trained tensors go.

    `eval_sets` is what `prepare_data` held out: its dev split is looked at while the stage trains, if it wants that.
    `resume` names a checkpoint to go on from; without it the newest of this very stage is taken, if there is one.
    """
    from nvembed.training import train_stage

    section = section_from_json(Stage, stage)
    with task(f"train_{name}", section.model_dump(mode="json")) as run:
        train_stage(
            name,
            section,
            section_from_json(Model, model),
            section_from_json(Resources, resources),
            Path(dataset),
            Path(init) if init else None,
            Path(adapter),
            resume=Path(resume) if resume else None,
            eval_sets=Path(eval_sets) if eval_sets else None,
        )
        run.log_folder(Path(adapter))
        copy_report(Path(adapter), report)
