"""`kubectl apply -f manifests/` works as it stands: known kinds, strict fields, nothing secret, nothing privileged."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "manifests"
PLAIN = sorted(FOLDER.glob("*.yaml"))
CORE = {
    *("Namespace", "NetworkPolicy", "PersistentVolumeClaim", "ServiceAccount", "Service", "Deployment"),
    *("ConfigMap", "Role", "RoleBinding"),
}
NEWEST = kubernetes_validate.utils.all_versions()[-3:]


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


OBJECTS = [item for file in PLAIN for item in documents(file)]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [item for item in OBJECTS if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def title(item: dict[str, Any]) -> str:
    return f"{item['kind']}-{item['metadata']['name']}"


def container() -> dict[str, Any]:
    (found,) = named("Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    return found


def test_the_plain_files_are_what_their_sources_make() -> None:
    spec = importlib.util.spec_from_file_location("render_manifests", ROOT / "scripts" / "render_manifests.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert {file.name: file.read_text(encoding="utf-8") for file in PLAIN} == module.render(), "run `make compile`"


def test_every_source_is_in_the_plain_files() -> None:
    sources = [f for name in ("base", "tasks") for f in (FOLDER / "kustomize" / name).glob("*.yaml")]
    assert len(PLAIN) == len([file for file in sources if file.name != "kustomization.yaml"]) > 0


@pytest.mark.parametrize("version", NEWEST)
@pytest.mark.parametrize("item", OBJECTS, ids=title)
def test_an_object_is_valid_with_no_unknown_field(item: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(item, version, strict=True)


def test_validation_would_notice_a_misspelt_field() -> None:
    item = named("Service", "mlflow")
    wrong = {**item, "spec": {**item["spec"], "sellector": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST[-1], strict=True)


def test_all_kinds_are_core_kinds_and_none_is_a_secret() -> None:
    assert {item["kind"] for item in OBJECTS} == CORE


def test_the_namespace_comes_first_and_the_files_apply_in_the_order_of_their_names() -> None:
    assert OBJECTS[0]["kind"] == "Namespace"
    assert all(file.name[:2].isdigit() for file in PLAIN)
    assert {item["metadata"]["namespace"] for item in OBJECTS[1:]} == {"nvembed"}


def test_no_object_is_given_twice() -> None:
    assert len({title(item) for item in OBJECTS}) == len(OBJECTS)


def test_the_namespace_enforces_restricted_pods() -> None:
    assert OBJECTS[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_images_are_pinned() -> None:
    image = container()["image"]
    tag = image.rpartition("/")[2].partition(":")[2]
    assert "@sha256:" in image or tag not in ("", "latest")


def test_the_pod_meets_what_its_namespace_enforces() -> None:
    pod, box = named("Deployment", "mlflow")["spec"]["template"]["spec"], container()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert box["securityContext"]["allowPrivilegeEscalation"] is False
    assert box["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert box["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["mountPath"] for mount in box["volumeMounts"]} == {"/mlflow", "/tmp"}
    assert pod["automountServiceAccountToken"] is False
    assert {"requests", "limits"} <= set(box["resources"])


def test_sqlite_never_has_two_writers() -> None:
    spec = named("Deployment", "mlflow")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_references_between_objects_lead_somewhere() -> None:
    deployment = named("Deployment", "mlflow")["spec"]["template"]
    labels = deployment["metadata"]["labels"].items()
    assert named("Service", "mlflow")["spec"]["selector"].items() <= labels
    assert named("NetworkPolicy", "allow-mlflow")["spec"]["podSelector"]["matchLabels"].items() <= labels
    claims = [
        v["persistentVolumeClaim"]["claimName"] for v in deployment["spec"]["volumes"] if "persistentVolumeClaim" in v
    ]
    assert all(named("PersistentVolumeClaim", claim) for claim in claims)
    assert named("ServiceAccount", deployment["spec"]["serviceAccountName"])
    binding = named("RoleBinding", "nvembed")
    assert named("Role", binding["roleRef"]["name"])
    assert named("ServiceAccount", binding["subjects"][0]["name"])


def test_no_role_asks_for_everything() -> None:
    for rule in named("Role", "nvembed")["rules"]:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert "secrets" not in rule["resources"]


def test_what_is_not_allowed_is_denied() -> None:
    spec = named("NetworkPolicy", "default-deny")["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_the_names_are_those_the_pipeline_asks_for() -> None:
    import importlib

    inputs = importlib.import_module(
        "pipelines.pipeline"
    ).nvembed_pipeline.pipeline_spec.root.input_definitions.parameters
    config = named("ConfigMap", inputs["config_map"].default_value.string_value)
    state = named("PersistentVolumeClaim", inputs["state_claim"].default_value.string_value)
    assert config["data"]["NVEMBED_STATE"] == importlib.import_module("pipelines.pipeline").STATE_MOUNT
    assert state["spec"]["accessModes"] == ["ReadWriteMany"]
    assert container()["image"] == inputs["image"].default_value.string_value


def test_the_kustomizations_name_files_that_are_there() -> None:
    files = sorted((FOLDER / "kustomize").rglob("kustomization.yaml"))
    assert len(files) == 5
    for file in files:
        for name in documents(file)[0]["resources"]:
            path = file.parent / name
            assert path.is_file() or (path / "kustomization.yaml").is_file(), f"{file}: {name}"


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server, started by the Deployment's own command with its volume and port put elsewhere."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    box = container()
    arguments = [
        word.replace("/mlflow/", f"{folder}/").replace("--host=0.0.0.0", "--host=127.0.0.1") for word in box["args"]
    ]
    arguments = [
        word.replace("--port=5000", f"--port={port}").replace("--workers=2", "--workers=1") for word in arguments
    ]
    command = [str(Path(sys.executable).with_name(box["command"][0])), *box["command"][1:], *arguments]
    environment = {item["name"]: item["value"] for item in box["env"]} | {"PATH": "/usr/bin:/bin"}
    log = (folder / "log").open("w")
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 120
            while status(port, "/health", "127.0.0.1") != 200:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.3)
            yield str(port)
        finally:
            process.terminate()
            process.wait(30)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status(port: object, path: str, host: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


API = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"


@pytest.mark.parametrize(
    "host", ["mlflow", "mlflow:5000", "mlflow.nvembed:5000", "mlflow.nvembed.svc.cluster.local:5000", "localhost:5000"]
)
def test_mlflow_answers_to_the_names_of_its_service(mlflow: str, host: str) -> None:
    assert status(mlflow, API, host) == 200


@pytest.mark.parametrize("host", ["mlflow.evil.com", "evil.com", "mlflow.nvembed.evil.com"])
def test_mlflow_refuses_other_names(mlflow: str, host: str) -> None:
    assert status(mlflow, API, host) == 403


def test_the_probes_path_needs_no_name(mlflow: str) -> None:
    assert status(mlflow, container()["readinessProbe"]["httpGet"]["path"], "10.1.2.3:5000") == 200
