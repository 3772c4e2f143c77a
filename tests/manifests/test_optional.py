"""What needs more than Kubernetes itself: valid by its own schemas and as restricted as the rest."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.crd import validator
from manifest_files import FOLDER, NEWEST, ROOT, check, containers, documents, named, pod_of, title

FILES = sorted((FOLDER / "optional").rglob("*.yaml"))
OBJECTS = [item for file in FILES for item in documents(file)]
PLURALS = {
    "ClusterTrainingRuntime": "clustertrainingruntimes",
    "ResourceFlavor": "resourceflavors",
    "ClusterQueue": "clusterqueues",
    "LocalQueue": "localqueues",
    "WorkloadPriorityClass": "workloadpriorityclasses",
    "InferenceService": "inferenceservices",
    "Pipeline": "pipelines",
    "PipelineVersion": "pipelineversions",
    "PrometheusRule": "prometheusrules",
}
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def faults(item: dict[str, Any]) -> list[str]:
    group, _, version = item["apiVersion"].partition("/")
    schema = validator(f"{PLURALS[item['kind']]}.{group}-{version}.json")
    return [f"{list(error.absolute_path)}: {error.message}" for error in schema.iter_errors(item)]


def whole(item: dict[str, Any]) -> str:
    return f"{item['apiVersion'].partition('/')[0]}-{title(item)}"


@pytest.mark.parametrize("item", OBJECTS, ids=whole)
def test_an_object_passes_its_schema_with_no_unknown_field(item: dict[str, Any]) -> None:
    if item["kind"] in PLURALS:
        assert faults(item) == []
    else:
        for version in NEWEST:
            check(item, version)


@pytest.mark.parametrize("kind", sorted(set(PLURALS) - {"WorkloadPriorityClass"}))
def test_a_misspelt_field_would_be_noticed(kind: str) -> None:
    item = copy.deepcopy(next(item for item in OBJECTS if item["kind"] == kind))
    item["spec"]["mispelt"] = 1
    assert any("mispelt" in fault for fault in faults(item))


def test_every_schema_is_used() -> None:
    assert {item["kind"] for item in OBJECTS} - {"Job", "NetworkPolicy"} == set(PLURALS)


def pod_specs() -> list[tuple[str, dict[str, Any]]]:
    found = [(title(item), pod_of(item)["spec"]) for item in OBJECTS if item["kind"] == "Job"]  # type: ignore[index]
    found += [(title(item), item["spec"]["predictor"]) for item in OBJECTS if item["kind"] == "InferenceService"]
    runtime = named(OBJECTS, "ClusterTrainingRuntime", "nvembed")["spec"]["template"]["spec"]["replicatedJobs"]
    found += [(job["name"], job["template"]["spec"]["template"]["spec"]) for job in runtime]
    return found


@pytest.mark.parametrize(("name", "pod"), pod_specs(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_pod_is_as_restricted_as_its_namespace_asks(name: str, pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for box in containers(pod):
        assert box["securityContext"] == RESTRICTED
        assert box["image"].partition(":")[2] not in ("", "latest")


def test_no_secret_lies_in_an_optional_file() -> None:
    assert not [item for item in OBJECTS if item["kind"] == "Secret"]


def test_the_canary_is_the_champions_service_with_a_share_of_the_traffic() -> None:
    (champion,), (canary,) = (
        documents(FOLDER / "optional" / "kserve" / f"{name}.yaml") for name in ("champion", "canary")
    )
    assert canary["spec"]["predictor"].pop("canaryTrafficPercent") == 10
    (fetch,) = canary["spec"]["predictor"]["initContainers"]
    assert fetch["command"][-2] == "challenger"
    fetch["command"][-2] = "champion"
    assert canary == champion


_COMPILE = """
import sys
from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from pipelines.pipeline import nvembed_pipeline

file, name, shown = sys.argv[1:]
options = KubernetesManifestOptions(
    pipeline_name="nvembed",
    pipeline_display_name="nvembed",
    pipeline_version_name=name,
    pipeline_version_display_name=shown,
    namespace="kubeflow",
    include_pipeline_manifest=True,
)
compiler.Compiler().compile(
    nvembed_pipeline, file, kubernetes_manifest_format=True, kubernetes_manifest_options=options
)
"""


def test_the_objects_are_what_kfp_itself_would_write(tmp_path: Path) -> None:
    version = named(OBJECTS, "PipelineVersion", "nvembed-0.1.0")
    file = tmp_path / "objects.yaml"
    # in a process of its own: KFP looks through every module that is imported, which takes it most of a minute here
    told = [str(file), version["metadata"]["name"], version["spec"]["displayName"]]
    subprocess.run([sys.executable, "-c", _COMPILE, *told], check=True, cwd=ROOT)
    theirs = {item["kind"]: item for item in documents(file)}
    for item in (named(OBJECTS, "Pipeline", "nvembed"), version):
        assert item["spec"] == theirs[item["kind"]]["spec"]
        assert {**theirs[item["kind"]]["metadata"], "labels": item["metadata"]["labels"]} == item["metadata"]


def test_prometheus_reads_every_alert(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: package prometheus)")
    rules = named(OBJECTS, "PrometheusRule", "nvembed")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.dump(rules), encoding="utf-8")
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_speak_of_jobs_and_claims_that_are_there() -> None:
    plain = [item for file in sorted(FOLDER.glob("*.yaml")) for item in documents(file)]
    text = yaml.dump(named(OBJECTS, "PrometheusRule", "nvembed"), width=10**6)
    for kind, name in (("Deployment", "mlflow"), ("CronJob", "mlflow-backup"), ("CronJob", "nvembed-reaper")):
        assert named(plain, kind, name)
        assert f'{kind.lower()}="{name}"' in text
