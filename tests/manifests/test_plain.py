"""`kubectl apply -f manifests/` works as it stands: core kinds, strict fields, nothing secret, nothing privileged."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import kubernetes_validate
import pytest
from manifest_files import FOLDER, NEWEST, PLAIN, ROOT, built, check, documents, named, title

CORE = {
    *("Namespace", "ResourceQuota", "LimitRange", "NetworkPolicy", "PersistentVolumeClaim", "ServiceAccount"),
    *("Service", "Deployment", "PodDisruptionBudget", "CronJob", "ConfigMap", "Role", "RoleBinding"),
    *("ClusterRole", "ClusterRoleBinding"),
}
OF_NO_NAMESPACE = ("Namespace", "ClusterRole", "ClusterRoleBinding")
OBJECTS = [item for file in PLAIN for item in documents(file)]


def mlflow_container() -> dict[str, Any]:
    (found,) = named(OBJECTS, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    return found


def renderer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render_manifests", ROOT / "scripts" / "render_manifests.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plain_files_are_what_their_sources_make() -> None:
    assert {file.name: file.read_text(encoding="utf-8") for file in PLAIN} == renderer().render(), "run `make compile`"


def test_the_plain_files_are_what_kustomize_builds() -> None:
    made = sorted(built("plain"), key=title)
    assert made == sorted(OBJECTS, key=title)


def test_the_pipelines_objects_are_made_from_the_compiled_pipeline() -> None:
    module = renderer()
    assert module.PIPELINE.read_text(encoding="utf-8") == module.pipeline_objects(), "run `make compile`"


def test_every_source_of_the_base_is_in_the_plain_files() -> None:
    sources = [file for file in (FOLDER / "kustomize" / "base").rglob("*.yaml") if file.name != "kustomization.yaml"]
    assert len(PLAIN) == len(sources) > 0


def test_the_schemas_are_those_of_three_versions() -> None:
    assert len(set(NEWEST)) == 3


@pytest.mark.parametrize("version", NEWEST)
@pytest.mark.parametrize("item", OBJECTS, ids=title)
def test_an_object_is_valid_with_no_unknown_field(item: dict[str, Any], version: str) -> None:
    check(item, version)


def test_validation_would_notice_a_misspelt_field() -> None:
    item = named(OBJECTS, "Service", "mlflow")
    wrong = {**item, "spec": {**item["spec"], "sellector": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong, NEWEST[-1])


def test_all_kinds_are_core_kinds_and_none_is_a_secret() -> None:
    assert {item["kind"] for item in OBJECTS} == CORE


def test_the_namespace_comes_first_and_the_files_apply_in_the_order_of_their_names() -> None:
    assert OBJECTS[0]["kind"] == "Namespace"
    assert all(file.name[:2].isdigit() for file in PLAIN)
    placed = {item["metadata"].get("namespace") for item in OBJECTS if item["kind"] not in OF_NO_NAMESPACE}
    assert placed == {"nvembed"}


def test_nothing_but_plain_manifests_lies_where_kubectl_looks() -> None:
    assert {file for pattern in ("*.yaml", "*.yml", "*.json") for file in FOLDER.glob(pattern)} == set(PLAIN)
    assert not (FOLDER / "kustomization.yaml").exists()


def test_the_namespace_enforces_restricted_pods() -> None:
    assert OBJECTS[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_sqlite_never_has_two_writers() -> None:
    spec = named(OBJECTS, "Deployment", "mlflow")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_what_is_not_allowed_is_denied() -> None:
    spec = named(OBJECTS, "NetworkPolicy", "default-deny")["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_a_tenants_user_may_run_the_pipeline() -> None:
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        subjects = {one["name"] for one in named(OBJECTS, kind, "nvembed")["subjects"]}
        assert subjects == {"nvembed", "default-editor"}


def test_the_names_are_those_the_pipeline_asks_for() -> None:
    spec, platform = documents(ROOT / "pipelines" / "nvembed.yaml")
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    config = named(OBJECTS, "ConfigMap", inputs["config_map"]["defaultValue"])
    state = named(OBJECTS, "PersistentVolumeClaim", inputs["state_claim"]["defaultValue"])
    mounts = [mount for one in executors for mount in one["pvcMount"]]
    mounted = {mount["pvcNameParameter"].get("componentInputParameter", ""): mount["mountPath"] for mount in mounts}
    places = {name.removeprefix("pipelinechannel--"): place for name, place in mounted.items()}
    models = named(OBJECTS, "PersistentVolumeClaim", inputs["models_claim"]["defaultValue"])
    assert places == {"state_claim": config["data"]["NVEMBED_STATE"], "models_claim": "/models"}
    assert Path(config["data"]["HF_HOME"]).is_relative_to(places["models_claim"])
    keys = {pair["configMapKey"] for one in executors for taken in one["configMapAsEnv"] for pair in taken["keyToEnv"]}
    assert keys == config["data"].keys()
    assert {*state["spec"]["accessModes"], *models["spec"]["accessModes"]} == {"ReadWriteMany"}
    assert mlflow_container()["image"] == inputs["image"]["defaultValue"]


def test_default_requests_cannot_exceed_a_limit_of_ours() -> None:
    """A LimitRange that gave limits would make every pod invalid that requests more than it."""
    (limits,) = named(OBJECTS, "LimitRange", "nvembed")["spec"]["limits"]
    assert "default" not in limits
    hard = named(OBJECTS, "ResourceQuota", "nvembed")["spec"]["hard"]
    assert not [name for name in hard if name.startswith("limits.")]
