"""Every overlay builds, is valid, and keeps what the plain files promise."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_files import FOLDER, NEWEST, OVERLAYS, ROOT, built, check, containers, named, pod_of, pods, title

from nvembed.cluster import checks, health, reaping

RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
# What an operator makes by hand; docs/cluster.md has a command for each.
SECRETS = {"mlflow-database", "mlflow-server", "mlflow-accounts", "mlflow-artifacts", "nvembed-tracking"}
BEYOND = ("standalone", "local")  # their pipeline side lies in Kubeflow's own namespace
overlays = pytest.mark.parametrize("overlay", OVERLAYS)


@overlays
@pytest.mark.parametrize("version", NEWEST)
def test_every_object_is_valid_with_no_unknown_field(overlay: str, version: str) -> None:
    for item in built(overlay):
        check(item, version)


@overlays
def test_no_secret_lies_in_a_manifest_and_no_object_is_given_twice(overlay: str) -> None:
    titles = [title(item) for item in built(overlay)]
    assert len(set(titles)) == len(titles)
    assert not [one for one in titles if one.startswith("Secret-")]


@overlays
def test_every_pod_is_as_restricted_as_its_namespace_asks(overlay: str) -> None:
    seen = 0
    for name, pod in pods(built(overlay)):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["enableServiceLinks"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert pod["automountServiceAccountToken"] is (name.startswith("CronJob-") and name.endswith("-reaper")), name
        for box in containers(pod):
            assert box["securityContext"] == RESTRICTED, name
            assert {"cpu", "memory", "ephemeral-storage"} <= box["resources"]["requests"].keys(), name
            assert {"memory", "ephemeral-storage"} <= box["resources"]["limits"].keys(), name
            tag = box["image"].rpartition("/")[2].partition(":")[2]
            assert "@sha256:" in box["image"] or tag not in ("", "latest"), name
        seen += 1
    assert seen >= 4


@overlays
def test_a_pods_volumes_are_all_used_and_none_is_a_host_path(overlay: str) -> None:
    for name, pod in pods(built(overlay)):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mounted = {mount["name"] for box in containers(pod) for mount in box.get("volumeMounts", [])}
        assert mounted - {"data"} == volumes.keys() - {"data"}, name  # a StatefulSet's claim is no volume of its pod
        assert not [one for one in volumes.values() if "hostPath" in one], name


@overlays
def test_what_a_pod_refers_to_is_there(overlay: str) -> None:
    objects = built(overlay)
    there = {title(item) for item in objects}
    for item in objects:
        template = pod_of(item)
        if template is None:
            continue
        space, pod = item["metadata"]["namespace"], template["spec"]
        assert f"ServiceAccount-{space}-{pod['serviceAccountName']}" in there
        for volume in pod.get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                assert f"PersistentVolumeClaim-{space}-{claim['claimName']}" in there
        for found in re.findall(r'"(secretKeyRef|secretRef|configMapRef)": \{[^}]*?"name": "([^"]+)"', json.dumps(pod)):
            kind, name = found
            assert name in SECRETS if kind.startswith("secret") else f"ConfigMap-{space}-{name}" in there


def test_the_guide_makes_every_secret() -> None:
    guide = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    made = re.findall(r"kubectl create secret generic -n nvembed (\S+)", guide)
    assert SECRETS | {"nvembed-llm", "nvembed-stores"} == set(made)
    for item in built("production"):
        for name, key in re.findall(r'"secretKeyRef": \{"key": "([^"]+)", "name": "([^"]+)"', json.dumps(item)):
            assert re.search(rf"secret generic -n nvembed {key} [^$]*.*?--from-literal={name}=", guide, re.S)


@overlays
def test_selectors_find_the_pods_they_mean(overlay: str) -> None:
    objects = built(overlay)
    labels = [pod_of(item)["metadata"]["labels"] for item in objects if pod_of(item) is not None]  # type: ignore[index]
    for item in objects:
        selector = item["spec"].get("selector") if item["kind"] in ("Service", "PodDisruptionBudget") else None
        if selector is not None:
            wanted = selector.get("matchLabels", selector).items()
            assert [one for one in labels if wanted <= one.items()], title(item)


@overlays
def test_a_role_names_what_it_allows_and_is_bound(overlay: str) -> None:
    objects = built(overlay)
    roles = [item for item in objects if item["kind"] in ("Role", "ClusterRole")]
    assert len(roles) == 3
    for role in roles:
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"] == ["mlpipeline-minio-artifact"] and rule["verbs"] == ["get"]
        binding = named(objects, f"{role['kind']}Binding", role["metadata"]["name"])
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        for subject in binding["subjects"]:
            others = subject["name"] in ("default-editor", "pipeline-runner")  # Kubeflow's own
            assert others or named(objects, "ServiceAccount", subject["name"], subject["namespace"])


def allowed(role: dict[str, Any]) -> set[tuple[str, str, str, str]]:
    """(group, resource, subresource, verb), as `SelfSubjectAccessReview` asks for them."""
    return {
        (group, *(whole.partition("/")[::2]), verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for whole in rule["resources"]
        for verb in rule["verbs"]
    }


@overlays
def test_the_roles_allow_what_the_code_asks_for(overlay: str) -> None:
    assert {*checks.RIGHTS, *health.LEASES} <= allowed(named(built(overlay), "Role", "nvembed"))
    assert set(health.LOOKING) == allowed(named(built(overlay), "ClusterRole", "nvembed"))
    assert set(reaping.RIGHTS) == allowed(named(built(overlay), "Role", "nvembed-reaper"))


@pytest.mark.parametrize("overlay", BEYOND)
def test_kubeflows_namespace_gets_the_pipeline_side_and_neither_quota_nor_policy(overlay: str) -> None:
    objects = built(overlay)
    there = {item["kind"] for item in objects if item["metadata"].get("namespace") == "kubeflow"}
    assert there == {"ConfigMap", "PersistentVolumeClaim", "ServiceAccount", "Role", "RoleBinding", "CronJob"}
    subjects = [one for one in objects if one["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    for binding in subjects:
        assert {one["namespace"] for one in binding["subjects"]} == {"kubeflow"}
    names = {one["name"] for one in named(objects, "RoleBinding", "nvembed")["subjects"]}
    assert names == {"nvembed", "pipeline-runner"}
    assert named(objects, "Deployment", "mlflow", "nvembed")


def test_one_node_is_enough_for_the_local_overlay() -> None:
    claims = [item for item in built("local") if item["kind"] == "PersistentVolumeClaim"]
    assert {mode for claim in claims for mode in claim["spec"]["accessModes"]} == {"ReadWriteOnce"}
    assert len(claims) == 4


def test_production_keeps_nothing_of_sqlite_and_no_password_in_an_argument() -> None:
    objects = built("production")
    text = yaml.dump_all(objects)
    assert "sqlite" not in text
    assert "PersistentVolumeClaim-nvembed-mlflow" not in {title(item) for item in objects}
    deployment = named(objects, "Deployment", "mlflow")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["type"] == "RollingUpdate"
    assert named(objects, "PodDisruptionBudget", "mlflow")["spec"]["minAvailable"] == 1
    assert not re.search(r"postgres(ql)?://", text.replace("(postgresql://…)", ""))


def test_the_plain_server_and_productions_take_the_same_host_names() -> None:
    def hosts(overlay: str) -> list[str]:
        (box,) = named(built(overlay), "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
        return [word for word in box["args"] if word.startswith("--allowed-hosts=")]

    assert hosts("plain") == hosts("production") != []


def checkov(folder: Path, *options: str) -> dict[str, Any]:
    program = os.environ.get("CHECKOV") or shutil.which("checkov")
    if program is None:
        pytest.skip("checkov is not installed, or named by CHECKOV")
    command = [program, "-d", str(folder), "--compact", "--quiet", "-o", "json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_checkov_finds_what_is_argued_and_nothing_else(tmp_path: Path) -> None:
    for overlay in OVERLAYS:
        (tmp_path / f"{overlay}.yaml").write_text(yaml.dump_all(built(overlay)), encoding="utf-8")
    for file in (FOLDER / "optional").rglob("*.yaml"):
        if file.name != "kustomization.yaml":
            shutil.copy(file, tmp_path / f"optional-{file.parent.name}-{file.name}")
    argued = set(yaml.safe_load((ROOT / ".checkov.yaml").read_text(encoding="utf-8"))["skip-check"])
    found = checkov(tmp_path, "--framework", "kubernetes", "--skip-download")
    assert {one["check_id"] for one in found["results"]["failed_checks"]} == argued
