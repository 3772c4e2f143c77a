"""What each task of the compiled pipeline gets on a cluster, held to a table that a person can read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from nvembed.cluster import pipeline_file

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "pipeline_settings.json"
_PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['(.+)'\]\}\}")


def settings() -> dict[str, dict[str, Any]]:
    """Executor → its settings; a parameter stands as `{name}`, whatever pipeline it comes through."""
    spec, platform = yaml.safe_load_all(pipeline_file().read_text(encoding="utf-8"))
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    retries = _retries(spec)
    found = {}
    for name, executor in spec["deploymentSpec"]["executors"].items():
        container, own = executor["container"], kubernetes[name]
        resources = container.get("resources", {})
        gpu = resources.get("accelerator", {})
        found[name.removeprefix("exec-")] = {
            "image": _short(container["image"]),
            "cpu": [_short(resources.get(f"resourceCpu{end}")) for end in ("Request", "Limit")],
            "memory": [_short(resources.get(f"resourceMemory{end}")) for end in ("Request", "Limit")],
            "accelerators": [_short(gpu.get(f"resource{end}")) for end in ("Type", "Count")],
            "tolerations": [_short(one["tolerationJson"]) for one in own.get("tolerations", [])],
            "node_selector": _short(own.get("nodeSelector", {}).get("nodeSelectorJson")),
            "env": sorted([one["name"] for one in own.get("fieldPathAsEnv", [])] + _config(own)),
            "volumes": {one["mountPath"]: _short(one["pvcNameParameter"]) for one in own.get("pvcMount", [])},
            "secrets": {one["mountPath"]: _short(one["secretNameParameter"]) for one in own.get("secretAsVolume", [])},
            "secret_env": _secret_env(own),
            "shm": [f"{one['medium']} {one['sizeLimit']}" for one in own.get("emptyDirMounts", [])],
            "retries": retries.get(name.removeprefix("exec-")),
            "hours": int(own["activeDeadlineSeconds"]) / 3600,
            "security": own["securityContext"],
        }
    return found


def _config(own: dict[str, Any]) -> list[str]:
    return [pair["envVar"] for one in own.get("configMapAsEnv", []) for pair in one["keyToEnv"]]


def _secret_env(own: dict[str, Any]) -> dict[str, list[str]]:
    """Secret → the variables it gives, each under its key's own name, none of which has to be there."""
    found = {}
    for one in own.get("secretAsEnv", []):
        assert one["optional"] is True and "secretName" not in one
        assert all(pair["envVar"] == pair["secretKey"] for pair in one["keyToEnv"])
        found[_short(one["secretNameParameter"])] = [pair["envVar"] for pair in one["keyToEnv"]]
    return found


def _retries(spec: dict[str, Any]) -> dict[str, list[Any]]:
    """Component → times, first pause, factor and longest pause, over all pipelines within pipelines."""
    dags = [spec["root"], *spec["components"].values()]
    found = {}
    for task in (task for dag in dags if "dag" in dag for task in dag["dag"]["tasks"].values()):
        if policy := task.get("retryPolicy"):
            name = task["componentRef"]["name"].removeprefix("comp-")
            found[name] = [policy[key] for key in ("maxRetryCount", "backoffDuration", "backoffFactor")]
    return found


def _short(value: Any) -> str | None:
    """A constant as it is; a parameter, however the compiler writes it, as `{its name}`."""
    if isinstance(value, dict):
        output = value.get("taskOutputParameter", {})
        return f"{{{_name(value.get('componentInputParameter') or output['outputParameterKey'])}}}"
    if found := _PLACEHOLDER.fullmatch(str(value)):
        return f"{{{_name(found[1])}}}"
    return value


def _name(parameter: str) -> str:
    return parameter.removeprefix("pipelinechannel--").removeprefix("resolve-recipe-")


def test_every_task_gets_what_the_table_says() -> None:
    found = settings()
    wanted = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert found == wanted, f"if this is meant, write {GOLDEN.name} anew: {json.dumps(found, indent=1, sort_keys=True)}"


def test_every_task_runs_without_root_in_the_image_that_is_given_with_retries_and_a_time_limit() -> None:
    for name, one in settings().items():
        assert one["image"] == "{image}", name
        assert one["security"] == {"runAsUser": "1000", "runAsGroup": "1000", "runAsNonRoot": True}, name
        assert one["retries"] is not None, name
        assert one["hours"] > 0, name


def test_what_computes_gets_the_recipes_machine_and_what_trains_its_own() -> None:
    found = settings()
    for name in ("train", "train-2"):
        assert found[name]["cpu"] == ["{train_cpu}", "{train_cpu}"]
        assert found[name]["accelerators"] == ["{accelerator}", "{train_accelerators}"]
    for name in ("evaluate", "mine-shard", "mine-hard-negatives", "mine-again", "compare-models", "synthesize-data"):
        assert found[name]["accelerators"] == ["{accelerator}", "{accelerators}"], name
        assert found[name]["memory"] == ["{memory}", "{memory}"], name


def test_every_task_may_log_in_to_mlflow_and_all_but_the_last_read_from_stores_and_the_hub() -> None:
    found = settings()
    for name, one in found.items():
        tracked, reads = "{tracking_secret}" in one["secret_env"], "{stores_secret}" in one["secret_env"]
        assert tracked, name
        assert reads == ("HF_HOME" in one["env"]) == (one["volumes"].get("/models") == "{models_claim}"), name
        assert reads == (name != "finalize-run"), name


def test_a_store_that_wants_no_keys_and_a_config_map_without_the_hubs_cache_stop_no_task() -> None:
    _, platform = yaml.safe_load_all(pipeline_file().read_text(encoding="utf-8"))
    for own in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        cache = [one for one in own["configMapAsEnv"] if one["keyToEnv"][0]["envVar"] == "HF_HOME"]
        assert all(one["optional"] is True for one in cache)


def test_only_the_task_that_asks_language_models_sees_their_keys() -> None:
    assert {name for name, one in settings().items() if one["secrets"]} == {"synthesize-data"}
