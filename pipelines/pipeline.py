"""The pipeline: one definition for a laptop and for a cluster.

Compiled to `nvembed.yaml` beside it (`make compile`). A file called `nvembed.py` here would hide the package.
"""

from kfp import dsl, kubernetes

from components.compare_models.component import compare_models
from components.finalize_run.component import finalize_run
from components.mine_again.component import mine_again
from components.mine_hard_negatives.component import mine_hard_negatives
from components.prepare_data.component import prepare_data
from components.register_model.component import register_model
from components.resolve_recipe.component import resolve_recipe
from components.synthesize_data.component import synthesize_data
from components.train.component import train
from pipelines.loops import evaluate_candidates, mine_shards, prepare_shards
from pipelines.placing import IMAGE, SECRETS_MOUNT, in_room, on_machine, placed, reading


@dsl.pipeline(name="nvembed", description="Train, judge and register an NV-Embed style text embedding model.")
def nvembed_pipeline(
    recipe: str = "laptop",
    overrides: str = "",
    image: str = IMAGE,
    state_claim: str = "nvembed-state",
    config_map: str = "nvembed",
    llm_secret: str = "nvembed-llm",
    tracking_secret: str = "nvembed-tracking",
    stores_secret: str = "nvembed-stores",
    models_claim: str = "nvembed-models",
):
    """From a recipe to a registered model.

    Args:
        recipe: A preset's name or a recipe's whole text.
        overrides: Changes to the recipe, `section.key=value`, one a line.
        image: The image every task runs in. Its name is part of every cache key, so a new image is a cache miss.
        state_claim: Volume claim for checkpoints and caches.
        config_map: Config map with MLFLOW_TRACKING_URI, NVEMBED_STATE and HF_HOME.
        llm_secret: Secret with the language models' keys, each under the name that `api_key_env` gives; it may be
            missing where synthesis is off.
        tracking_secret: Secret with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; it may be missing where
            MLflow wants no log-in.
        stores_secret: Secret with what object stores and the hub ask for (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
            AWS_SESSION_TOKEN, AWS_ENDPOINT_URL, AWS_REGION, HF_TOKEN); it, and any of its keys, may be missing.
        models_claim: Volume claim for what comes from the hub, fetched once for all tasks and runs.
    """
    place = (image, state_claim, config_map, tracking_secret)
    sources = (config_map, models_claim, stores_secret)
    closing = placed(finalize_run(), *place, again=True)
    with dsl.ExitHandler(closing, name="run"):
        resolving = placed(resolve_recipe(recipe=recipe, overrides=overrides), *place, again=True)
        sections = reading(resolving, *sources).outputs
        names = ("cpu", "memory", "accelerator", "accelerators", "tolerations", "node_selector")
        machine = {name: sections[name] for name in names}
        # a TrainJob brings nodes of its own: the task that waits for it needs next to nothing
        trainer = {**machine, **{name: sections[f"train_{name}"] for name in ("cpu", "memory", "accelerators")}}
        shards = prepare_shards(
            shards=sections["shards"],
            data=sections["data"],
            image=image,
            state_claim=state_claim,
            config_map=config_map,
            tracking_secret=tracking_secret,
            models_claim=models_claim,
            stores_secret=stores_secret,
            cpu=machine["cpu"],
            memory=machine["memory"],
        ).output
        writing = placed(synthesize_data(synthesis=sections["synthesis"]), *place, hours=168)
        on_machine(reading(writing, *sources), **machine)
        # As files, so that a recipe may name its keys as it likes, and no other task sees them.
        kubernetes.use_secret_as_volume(writing, secret_name=llm_secret, mount_path=SECRETS_MOUNT, optional=True)
        written = {
            "synthetic": writing.outputs["dataset"],
            "synthetic_eval_sets": writing.outputs["eval_sets"],
        }
        preparing = placed(prepare_data(data=sections["data"], shards=shards, **written), *place)
        prepared = in_room(reading(preparing, *sources), machine["cpu"], machine["memory"]).outputs
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
            tracking_secret=tracking_secret,
            models_claim=models_claim,
            stores_secret=stores_secret,
            **machine,
            **mining,
        ).output
        merging = placed(mine_hard_negatives(shards=neighbours, **mining), *place, hours=72)
        mined = on_machine(reading(merging, *sources), **machine).outputs["mined"]
        common = {
            "model": sections["model"],
            "resources": sections["resources"],
            "eval_sets": prepared["eval_sets"],
        }
        first = train(name="stage1", stage=sections["stage1"], dataset=mined, **common)
        stage1 = on_machine(reading(placed(first, *place, hours=336), *sources), **trainer).outputs["adapter"]
        fresh = mine_again(model=sections["model"], mined=mined, stage1=stage1, **mining)
        again = on_machine(reading(placed(fresh, *place, hours=72), *sources), **machine).outputs["again"]
        second = train(name="stage2", stage=sections["stage2"], dataset=again, init=stage1, **common)
        stage2 = on_machine(reading(placed(second, *place, hours=336), *sources), **trainer).outputs["adapter"]
        results = evaluate_candidates(
            candidates=sections["candidates"],
            evaluation=sections["evaluation"],
            model=sections["model"],
            resources=sections["resources"],
            image=image,
            state_claim=state_claim,
            config_map=config_map,
            tracking_secret=tracking_secret,
            models_claim=models_claim,
            stores_secret=stores_secret,
            eval_sets=prepared["eval_sets"],
            stage1=stage1,
            stage2=stage2,
            **machine,
        ).output
        known = {
            "registration": sections["registration"],
            "results": results,
            "dataset": prepared["dataset"],
            "mined": mined,
        }
        comparing = placed(
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
        )
        compared = on_machine(reading(comparing, *sources), **machine).outputs["comparison"]
        registering = register_model(model=sections["model"], adapter=stage2, comparison=compared, **known)
        placed(registering, *place, again=True)
        in_room(reading(registering, *sources), machine["cpu"], machine["memory"])
