"""Write what lies in manifests/ and is made from something else.

`manifests/NN-*.yaml`, for a plain `kubectl apply -f manifests/`, from manifests/kustomize/overlays/plain. The overlay
changes nothing, it only gathers: so each file is its source word for word under a number that keeps the order of
application. An overlay that changes things would need kustomize; this script refuses it.

`manifests/optional/pipeline/pipeline.yaml`, the compiled pipeline as objects that Kubeflow Pipelines reads from the
Kubernetes API, from pipelines/nvembed.yaml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "manifests"
OVERLAY = FOLDER / "kustomize" / "overlays" / "plain"
COMPILED = ROOT / "pipelines" / "nvembed.yaml"
PIPELINE = FOLDER / "optional" / "pipeline" / "pipeline.yaml"
HEAD = "# Made by scripts/render_manifests.py from {source}; edit that one.\n"


def sources(folder: Path) -> Iterator[Path]:
    """The files that a kustomization gathers, in its order."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    unknown = set(kustomization) - {"apiVersion", "kind", "resources"}
    if unknown:
        raise SystemExit(f"{folder}: {', '.join(sorted(unknown))} needs kustomize; the plain files only gather")
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        yield from sources(path) if path.is_dir() else [path]


def render() -> dict[str, str]:
    """The numbered files: name to text."""
    files = {}
    for number, source in enumerate(sources(OVERLAY)):
        head = HEAD.format(source=source.relative_to(ROOT).as_posix())
        files[f"{number * 10:02d}-{source.name}"] = head + source.read_text(encoding="utf-8")
    return files


def pipeline_objects() -> str:
    """A Pipeline and a PipelineVersion. A version is never changed, so its name is the package's version."""
    spec, platform = yaml.safe_load_all(COMPILED.read_text(encoding="utf-8"))
    name, description = spec["pipelineInfo"]["name"], spec["pipelineInfo"]["description"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    labels = {"app.kubernetes.io/part-of": "nvembed"}
    objects: list[dict[str, Any]] = [
        {"kind": "Pipeline", "name": name, "spec": {"displayName": name, "description": description}},
        {
            "kind": "PipelineVersion",
            "name": f"{name}-{project['version']}",
            "spec": {
                "pipelineName": name,
                "displayName": project["version"],
                "description": description,
                "pipelineSpec": spec,
                "platformSpec": platform,
            },
        },
    ]
    documents = [
        {
            "apiVersion": "pipelines.kubeflow.org/v2beta1",
            "kind": one["kind"],
            "metadata": {"name": one["name"], "namespace": "kubeflow", "labels": labels},
            "spec": one["spec"],
        }
        for one in objects
    ]
    head = HEAD.format(source=COMPILED.relative_to(ROOT).as_posix()).replace("edit that one", "run `make compile`")
    return head + "---\n".join(yaml.dump(one, sort_keys=False, width=120) for one in documents)


def main() -> None:
    """Write them, and remove numbered files that are no longer among them."""
    files = render()
    for stale in FOLDER.glob("[0-9]*.yaml"):
        if stale.name not in files:
            stale.unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    PIPELINE.parent.mkdir(parents=True, exist_ok=True)
    PIPELINE.write_text(pipeline_objects(), encoding="utf-8")


if __name__ == "__main__":
    main()
