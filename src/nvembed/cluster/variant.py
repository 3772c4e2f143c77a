"""The compiled pipeline with a recipe of its own: the recipe as its defaults, and as the recipe says what is fixed.

Kubeflow takes retries, time limits and the size of /dev/shm from the compiled file alone. A variant is that file with
these and the defaults changed and nothing else, so what was looked through and tested is what runs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nvembed.cluster.spec import Compiled
from nvembed.core.errors import UserError
from nvembed.recipe import Resources

TRAINING = ("exec-train", "exec-train-2")


def write_variant(compiled: Compiled, parameters: Mapping[str, str], resources: Resources, path: Path) -> None:
    """Write the pipeline with other defaults and with what `resources.compiled` says."""
    made = copy.deepcopy(compiled)
    for name, value in parameters.items():
        made.parameters[name]["defaultValue"] = value
    wanted = resources.compiled
    for task in made.tasks:
        if "retryPolicy" in task:
            task["retryPolicy"]["maxRetryCount"] = wanted.retries
    for pod in made.pods.values():
        for mount in _shared_memory(pod):
            mount["sizeLimit"] = wanted.shm
    for name in TRAINING:
        made.pods[name]["activeDeadlineSeconds"] = str(wanted.train_hours * 3600)
    path.write_text(yaml.safe_dump_all([made.spec, made.platform], allow_unicode=True), encoding="utf-8")


def misfits(compiled: Compiled, resources: Resources) -> list[str]:
    """Where a compiled pipeline gives tasks something else than a recipe wants, a line each."""
    wanted, pods = resources.compiled, compiled.pods
    have: dict[str, set[Any]] = {
        "shm": {mount["sizeLimit"] for pod in pods.values() for mount in _shared_memory(pod)},
        "retries": {int(task["retryPolicy"]["maxRetryCount"]) for task in compiled.tasks if "retryPolicy" in task},
        "train_hours": {int(pods[name]["activeDeadlineSeconds"]) // 3600 for name in TRAINING},
    }
    return [
        f"resources.compiled.{key} is {getattr(wanted, key)}, but the compiled pipeline has "
        f"{', '.join(map(str, sorted(found)))}; `nvembed compile --recipe` writes one that follows the recipe"
        for key, found in have.items()
        if found != {getattr(wanted, key)}
    ]


def refuse_local(paths: Mapping[str, str]) -> None:
    """Raise UserError if a recipe that is compiled in names data of this machine."""
    for key, path in paths.items():
        raise UserError(
            f"{key}: {path} lies on this machine, where a cluster's pods cannot read it; give s3://, gs:// or hf://, "
            "or a path on a volume that the pods mount (`nvembed submit --upload-to` uploads it for one run)"
        )


def _shared_memory(pod: Mapping[str, list[dict[str, str]]]) -> Iterator[dict[str, str]]:
    return (mount for mount in pod.get("emptyDirMounts", []) if mount["mountPath"] == "/dev/shm")
