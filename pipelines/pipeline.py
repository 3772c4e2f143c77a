"""The pipeline: one definition for a laptop and for a cluster.

Compiled to `nvembed.yaml` beside it (`make compile`). A file called `nvembed.py` here would hide the package.
"""

from typing import List

from kfp import dsl, kubernetes
from kfp.dsl import Dataset, Input, Model, PipelineTask

from components.compare_models.component import compare_models
from components.evaluate.component import evaluate
from components.finalize_run.component import finalize_run
from components.mine_again.component import mine_again
from components.mine_hard_negatives.component import mine_hard_negatives
from components.mine_shard.component import mine_shard
from components.prepare_data.component import prepare_data
from components.prepare_shard.component import prepare_shard
from components.register_model.component import register_model
from components.resolve_recipe.component import resolve_recipe
from components.synthesize_data.component import synthesize_data
from components.train.component import train

IMAGE = "nvembed:0.1.0"
STATE_MOUNT = "/state"
SECRETS_MOUNT = "/secrets"
USER = 1000


def _place(task: PipelineTask, image: str, state_claim: str, config_map: str, *, again: bool = False) -> PipelineTask:
    """Where and as whom a task runs. `again`: it must act in every run, so nothing of it comes from a cache."""
    task.set_container_image(image)
    task.set_caching_options(not again)
    # The run's identity comes by environment: as a parameter it would make every task a cache miss.
    kubernetes.use_field_path_as_env(task, env_name="KFP_RUN_ID", field_path="metadata.labels['pipeline/runid']")
    kubernetes.use_config_map_as_env(
        task,
        config_map_name=config_map,
        config_map_key_to_env={"MLFLOW_TRACKING_URI": "MLFLOW_TRACKING_URI", "NVEMBED_STATE": "NVEMBED_STATE"},
    )
    kubernetes.mount_pvc(task, pvc_name=state_claim, mount_path=STATE_MOUNT)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    return task


# The loop stands in a pipeline of its own: in a loop's body KFP's local runner replaces every parameter that comes from
# another task by the loop's item, so the loop must see nothing but its own pipeline's inputs.
@dsl.pipeline(name="evaluate-candidates")
def evaluate_candidates(
    candidates: list,
    evaluation: str,
    model: str,
    resources: str,
    image: str,
    state_claim: str,
    config_map: str,
    eval_sets: Input[Dataset],
    stage1: Input[Model],
    stage2: Input[Model],
) -> List[Dataset]:
    """Every candidate on every share of the tasks."""
    with dsl.ParallelFor(items=candidates, parallelism=8) as candidate:
        judged = evaluate(
            candidate=candidate,
            evaluation=evaluation,
            model=model,
            resources=resources,
            eval_sets=eval_sets,
            stage1=stage1,
            stage2=stage2,
        )
        _place(judged, image, state_claim, config_map)
    return dsl.Collected(judged.outputs["results"])


# Likewise. The list has one item at least: an empty one would end the run.
@dsl.pipeline(name="prepare-shards")
def prepare_shards(shards: list, data: str, image: str, state_claim: str, config_map: str) -> List[Dataset]:
    """Every shard of the data."""
    with dsl.ParallelFor(items=shards, parallelism=4) as shard:
        made = prepare_shard(data=data, shard=shard)
        _place(made, image, state_claim, config_map)
    return dsl.Collected(made.outputs["blocks"])


@dsl.pipeline(name="mine-shards")
def mine_shards(
    shards: list,
    mining: str,
    resources: str,
    image: str,
    state_claim: str,
    config_map: str,
    dataset: Input[Dataset],
) -> List[Dataset]:
    """Every share of the passages."""
    with dsl.ParallelFor(items=shards, parallelism=4) as shard:
        made = mine_shard(mining=mining, resources=resources, shard=shard, dataset=dataset)
        _place(made, image, state_claim, config_map)
    return dsl.Collected(made.outputs["neighbours"])


@dsl.pipeline(name="nvembed", description="Train, judge and register an NV-Embed style text embedding model.")
def nvembed_pipeline(
    recipe: str = "laptop",
    overrides: str = "",
    image: str = IMAGE,
    state_claim: str = "nvembed-state",
    config_map: str = "nvembed",
    llm_secret: str = "nvembed-llm",
):
    """From a recipe to a registered model.

    Args:
        recipe: A preset's name or a recipe's whole text.
        overrides: Changes to the recipe, `section.key=value`, one a line.
        image: The image every task runs in. Its name is part of every cache key, so a new image is a cache miss.
        state_claim: Volume claim for checkpoints and caches.
        config_map: Config map with MLFLOW_TRACKING_URI and NVEMBED_STATE.
        llm_secret: Secret with the language models' keys, each under the name that `api_key_env` gives; it may be
            missing where synthesis is off.
    """
    place = (image, state_claim, config_map)
    closing = _place(finalize_run(), *place, again=True)
    with dsl.ExitHandler(closing, name="run"):
        sections = _place(resolve_recipe(recipe=recipe, overrides=overrides), *place, again=True).outputs
        shards = prepare_shards(
            shards=sections["shards"],
            data=sections["data"],
            image=image,
            state_claim=state_claim,
            config_map=config_map,
        ).output
        writing = _place(synthesize_data(synthesis=sections["synthesis"]), *place)
        # As files, so that a recipe may name its keys as it likes, and no other task sees them.
        kubernetes.use_secret_as_volume(writing, secret_name=llm_secret, mount_path=SECRETS_MOUNT, optional=True)
        written = {
            "synthetic": writing.outputs["dataset"],
            "synthetic_eval_sets": writing.outputs["eval_sets"],
        }
        prepared = _place(prepare_data(data=sections["data"], shards=shards, **written), *place).outputs
        mining = {
            "mining": sections["mining"],
            "resources": sections["resources"],
            "dataset": prepared["dataset"],
        }
        neighbours = mine_shards(
            shards=sections["mine_shards"],
            image=image,
            state_claim=state_claim,
            config_map=config_map,
            **mining,
        ).output
        mined = _place(mine_hard_negatives(shards=neighbours, **mining), *place).outputs["mined"]
        common = {
            "model": sections["model"],
            "resources": sections["resources"],
            "eval_sets": prepared["eval_sets"],
        }
        first = train(name="stage1", stage=sections["stage1"], dataset=mined, **common)
        stage1 = _place(first, *place).outputs["adapter"]
        fresh = mine_again(model=sections["model"], mined=mined, stage1=stage1, **mining)
        again = _place(fresh, *place).outputs["again"]
        second = train(name="stage2", stage=sections["stage2"], dataset=again, init=stage1, **common)
        stage2 = _place(second, *place).outputs["adapter"]
        results = evaluate_candidates(
            candidates=sections["candidates"],
            evaluation=sections["evaluation"],
            model=sections["model"],
            resources=sections["resources"],
            image=image,
            state_claim=state_claim,
            config_map=config_map,
            eval_sets=prepared["eval_sets"],
            stage1=stage1,
            stage2=stage2,
        ).output
        known = {
            "registration": sections["registration"],
            "results": results,
            "dataset": prepared["dataset"],
            "mined": mined,
        }
        compared = _place(
            compare_models(
                evaluation=sections["evaluation"],
                resources=sections["resources"],
                eval_sets=prepared["eval_sets"],
                stage1=stage1,
                stage2=stage2,
                **known,
            ),
            *place,
            again=True,
        ).outputs["comparison"]
        registering = register_model(model=sections["model"], adapter=stage2, comparison=compared, **known)
        _place(registering, *place, again=True)
