"""The manifests as tests read them: plain files, overlays as kustomize builds them, and the pods within."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "manifests"
PLAIN = sorted(FOLDER.glob("*.yaml"))
OVERLAYS = ("plain", "standalone", "local", "gpu", "production")
NEWEST = list(dict.fromkeys(kubernetes_validate.utils.all_versions()))[-3:]


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


@functools.cache
def built(overlay: str) -> list[dict[str, Any]]:
    """An overlay's objects, as kustomize builds them."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which has kustomize in it, is not installed")
    command = ["kubectl", "kustomize", str(FOLDER / "kustomize" / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def check(item: Mapping[str, Any], version: str) -> None:
    """Hold an object to the strict schema of a Kubernetes version; most are the same in several overlays."""
    _check(json.dumps(item, sort_keys=True), version)


@functools.cache
def _check(text: str, version: str) -> None:
    kubernetes_validate.validate(json.loads(text), version, strict=True)


def title(item: Mapping[str, Any]) -> str:
    return f"{item['kind']}-{item['metadata'].get('namespace', '')}-{item['metadata']['name']}"


def named(objects: list[dict[str, Any]], kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
    (found,) = [
        item
        for item in objects
        if item["kind"] == kind
        and item["metadata"]["name"] == name
        and namespace in (None, item["metadata"].get("namespace"))
    ]
    return found


def pod_of(item: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pod template (metadata and spec) of what starts pods."""
    if item["kind"] in ("Deployment", "StatefulSet", "Job"):
        return item["spec"]["template"]
    return item["spec"]["jobTemplate"]["spec"]["template"] if item["kind"] == "CronJob" else None


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What starts pods by title, with its pod spec."""
    for item in objects:
        if (template := pod_of(item)) is not None:
            yield title(item), template["spec"]


def containers(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]
