"""Tasks that make the model: data, hard negatives, the two training stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nvembed.core.artifacts import link_tree, output_folder, read_manifest
from nvembed.recipe import Data, Mining, Model, Resources, Stage, section_from_json
from nvembed.steps.task import copy_report, task


def prepare_shard(data: str, shard: str, blocks: str) -> None:
    """The blocks of one shard of a mix; what is no mix has one shard with nothing in it."""
    from nvembed.data.shards import shard_from_json, write_shard

    section = section_from_json(Data, data)
    number, slices = shard_from_json(shard)
    with task(f"prepare_shard_{number}" if slices else "prepare_shard", made=[blocks]):
        write_shard(section, slices, Path(blocks))


def prepare_data(
    data: str,
    dataset: str,
    eval_sets: str,
    report: str | None = None,
    prepared: Sequence[str] = (),
    synthetic: str | None = None,
    synthetic_eval_sets: str | None = None,
    *,
    shards: int = 1,
) -> None:
    """Sources become training examples (`dataset`) and held-out sets (`eval_sets`).

    `prepared` are the folders of a mix's shards; without them so many `shards` are made here, one after another.
    `synthetic` and `synthetic_eval_sets` are what `synthesize_data` wrote: it joins the rest, or is all there is.
    """
    from nvembed.data import prepare

    section = section_from_json(Data, data)
    before = [*prepared, *([synthetic] if synthetic else [])]
    with task("prepare_data", section.model_dump(mode="json"), made=[dataset], after=before) as run:
        folders = [Path(folder) for folder in prepared]
        both = (Path(synthetic), Path(synthetic_eval_sets)) if synthetic and synthetic_eval_sets else None
        prepare(section, Path(dataset), Path(eval_sets), shards=shards, prepared=folders, synthetic=both)
        for name, folder in (("train", dataset), ("eval", eval_sets)):
            run.log_dataset(name, read_manifest(folder))
        run.log_folder(Path(dataset))
        copy_report(Path(dataset), report)


def mine_shard(mining: str, resources: str, shard: str, dataset: str, neighbours: str) -> None:
    """A share of the passages embedded and searched; one shard alone leaves all to `mine_hard_negatives`."""
    from nvembed.mining import mine_shard, shard_from_json

    section = section_from_json(Mining, mining)
    number, of = shard_from_json(shard)
    with task(f"mine_shard_{number}" if of > 1 else "mine_shard", made=[neighbours]):
        mine_shard(section, section_from_json(Resources, resources), Path(dataset), number, of, Path(neighbours))


def mine_hard_negatives(
    mining: str,
    resources: str,
    dataset: str,
    mined: str,
    report: str | None = None,
    prepared: Sequence[str] = (),
    *,
    shards: int = 1,
) -> None:
    """The teachers find hard negatives for the dataset's retrieval examples.

    `prepared` is what shards found; without it so many `shards` are searched here, one after another.
    """
    from nvembed.mining import mine, mine_in_shards

    section, where = section_from_json(Mining, mining), section_from_json(Resources, resources)
    with task("mine_hard_negatives", section.model_dump(mode="json"), made=[mined], after=prepared) as run:
        if shards > 1 and not prepared:
            mine_in_shards(section, where, Path(dataset), Path(mined), shards)
        else:
            mine(section, where, Path(dataset), Path(mined), prepared=[Path(folder) for folder in prepared])
        run.log_dataset("mined", read_manifest(mined))
        run.log_folder(Path(mined))
        copy_report(Path(mined), report)


def mine_again(
    mining: str,
    model: str,
    resources: str,
    dataset: str,
    mined: str,
    adapter: str,
    again: str,
    report: str | None = None,
) -> None:
    """Negatives for stage 2: mined by the model that stage 1 made, if the recipe says so; else `mined` as it is."""
    from nvembed.evaluation.running import load_trained
    from nvembed.mining import mine

    section, where = section_from_json(Mining, mining), section_from_json(Resources, resources)
    with task("mine_again", section.model_dump(mode="json"), made=[again]) as run:
        if section.enabled and section.again_with_stage1:
            own = load_trained(section_from_json(Model, model), where, Path(adapter))
            mine(section, where, Path(dataset), Path(again), own=own)
            run.log_dataset("mined_again", read_manifest(again))
            run.log_folder(Path(again))
        else:
            with output_folder(again) as folder:
                folder.rmdir()
                link_tree(Path(mined), folder)
        copy_report(Path(again), report)


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

    section, where = section_from_json(Stage, stage), section_from_json(Resources, resources)
    with task(f"train_{name}", section.model_dump(mode="json"), made=[adapter], after=[dataset]) as run:
        train_stage(
            name,
            section,
            section_from_json(Model, model),
            where,
            Path(dataset),
            Path(init) if init else None,
            Path(adapter),
            resume=Path(resume) if resume else None,
            eval_sets=Path(eval_sets) if eval_sets else None,
            elsewhere=_elsewhere(where),
        )
        run.log_folder(Path(adapter))
        copy_report(Path(adapter), report)


def _elsewhere(resources: Resources) -> Callable[[Any], None] | None:
    """What brings up the nodes that train, where the recipe does not want it done in the task's own pod."""
    if resources.launcher == "pod":
        return None
    from nvembed.cluster.launching import on_nodes

    return partial(on_nodes, resources)
