"""The pipeline's loops, each in a pipeline of its own.

In a loop's body KFP's local runner replaces every parameter that comes from another task by the loop's item, so a loop
must see nothing but its own pipeline's inputs. What a loop repeats stands in a pipeline of its own too: the compiler
hands a loop no parameter that only a task's resources use. Each list has one item at least: an empty one would end the
run.
"""

from typing import List

from kfp import dsl
from kfp.dsl import Dataset, Input, Model

from components.evaluate.component import evaluate
from components.mine_shard.component import mine_shard
from components.prepare_shard.component import prepare_shard
from pipelines.placing import in_room, on_machine, placed, reading


@dsl.pipeline(name="evaluate-candidate")
def evaluate_candidate(
    candidate: str,
    evaluation: str,
    model: str,
    resources: str,
    image: str,
    state_claim: str,
    config_map: str,
    tracking_secret: str,
    models_claim: str,
    stores_secret: str,
    cpu: str,
    memory: str,
    accelerator: str,
    accelerators: str,
    tolerations: list,
    node_selector: dict,
    eval_sets: Input[Dataset],
    stage1: Input[Model],
    stage2: Input[Model],
) -> Dataset:
    """One candidate on one share of the tasks."""
    judged = evaluate(
        candidate=candidate,
        evaluation=evaluation,
        model=model,
        resources=resources,
        eval_sets=eval_sets,
        stage1=stage1,
        stage2=stage2,
    )
    placed(judged, image, state_claim, config_map, tracking_secret, hours=72)
    reading(judged, config_map, models_claim, stores_secret)
    on_machine(judged, cpu, memory, accelerator, accelerators, tolerations, node_selector)
    return judged.outputs["results"]


@dsl.pipeline(name="evaluate-candidates")
def evaluate_candidates(
    candidates: list,
    evaluation: str,
    model: str,
    resources: str,
    image: str,
    state_claim: str,
    config_map: str,
    tracking_secret: str,
    models_claim: str,
    stores_secret: str,
    cpu: str,
    memory: str,
    accelerator: str,
    accelerators: str,
    tolerations: list,
    node_selector: dict,
    eval_sets: Input[Dataset],
    stage1: Input[Model],
    stage2: Input[Model],
) -> List[Dataset]:
    """Every candidate on every share of the tasks."""
    with dsl.ParallelFor(items=candidates, parallelism=8) as candidate:
        judged = evaluate_candidate(
            candidate=candidate,
            evaluation=evaluation,
            model=model,
            resources=resources,
            image=image,
            state_claim=state_claim,
            config_map=config_map,
            tracking_secret=tracking_secret,
            models_claim=models_claim,
            stores_secret=stores_secret,
            cpu=cpu,
            memory=memory,
            accelerator=accelerator,
            accelerators=accelerators,
            tolerations=tolerations,
            node_selector=node_selector,
            eval_sets=eval_sets,
            stage1=stage1,
            stage2=stage2,
        )
    return dsl.Collected(judged.output)


@dsl.pipeline(name="prepare-one-shard")
def prepare_one_shard(
    shard: str,
    data: str,
    image: str,
    state_claim: str,
    config_map: str,
    tracking_secret: str,
    models_claim: str,
    stores_secret: str,
    cpu: str,
    memory: str,
) -> Dataset:
    """One shard of the data."""
    made = prepare_shard(data=data, shard=shard)
    in_room(placed(made, image, state_claim, config_map, tracking_secret, hours=168), cpu, memory)
    reading(made, config_map, models_claim, stores_secret)
    return made.outputs["blocks"]


@dsl.pipeline(name="prepare-shards")
def prepare_shards(
    shards: list,
    data: str,
    image: str,
    state_claim: str,
    config_map: str,
    tracking_secret: str,
    models_claim: str,
    stores_secret: str,
    cpu: str,
    memory: str,
) -> List[Dataset]:
    """Every shard of the data."""
    with dsl.ParallelFor(items=shards, parallelism=4) as shard:
        made = prepare_one_shard(
            shard=shard,
            data=data,
            image=image,
            state_claim=state_claim,
            config_map=config_map,
            tracking_secret=tracking_secret,
            models_claim=models_claim,
            stores_secret=stores_secret,
            cpu=cpu,
            memory=memory,
        )
    return dsl.Collected(made.output)


@dsl.pipeline(name="mine-one-shard")
def mine_one_shard(
    shard: str,
    mining: str,
    resources: str,
    image: str,
    state_claim: str,
    config_map: str,
    tracking_secret: str,
    models_claim: str,
    stores_secret: str,
    cpu: str,
    memory: str,
    accelerator: str,
    accelerators: str,
    tolerations: list,
    node_selector: dict,
    dataset: Input[Dataset],
) -> Dataset:
    """One share of the passages."""
    made = mine_shard(mining=mining, resources=resources, shard=shard, dataset=dataset)
    placed(made, image, state_claim, config_map, tracking_secret, hours=72)
    reading(made, config_map, models_claim, stores_secret)
    on_machine(made, cpu, memory, accelerator, accelerators, tolerations, node_selector)
    return made.outputs["neighbours"]


@dsl.pipeline(name="mine-shards")
def mine_shards(
    shards: list,
    mining: str,
    resources: str,
    image: str,
    state_claim: str,
    config_map: str,
    tracking_secret: str,
    models_claim: str,
    stores_secret: str,
    cpu: str,
    memory: str,
    accelerator: str,
    accelerators: str,
    tolerations: list,
    node_selector: dict,
    dataset: Input[Dataset],
) -> List[Dataset]:
    """Every share of the passages."""
    with dsl.ParallelFor(items=shards, parallelism=4) as shard:
        made = mine_one_shard(
            shard=shard,
            mining=mining,
            resources=resources,
            image=image,
            state_claim=state_claim,
            config_map=config_map,
            tracking_secret=tracking_secret,
            models_claim=models_claim,
            stores_secret=stores_secret,
            cpu=cpu,
            memory=memory,
            accelerator=accelerator,
            accelerators=accelerators,
            tolerations=tolerations,
            node_selector=node_selector,
            dataset=dataset,
        )
    return dsl.Collected(made.output)
