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
            "shm": [f"{one['medium']} {one['sizeLimit']}" for one in own.get("emptyDirMounts", [])],
            "retries": retries.get(name.removeprefix("exec-")),
            "hours": int(own["activeDeadlineSeconds"]) / 3600,
            "security": own["securityContext"],
        }
    return found


def _config(own: dict[str, Any]) -> list[str]:
    return [pair["envVar"] for one in own.get("configMapAsEnv", []) for pair in one["keyToEnv"]]


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


def test_only_the_task_that_asks_language_models_sees_their_keys() -> None:
    assert {name for name, one in settings().items() if one["secrets"]} == {"synthesize-data"}
