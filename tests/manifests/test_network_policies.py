"""The network policies open every way that the code takes, and no other: asked pod by pod and port by port."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from manifest_files import built, named

SPACES = {
    "nvembed": {"kubernetes.io/metadata.name": "nvembed"},
    "team": {"kubernetes.io/metadata.name": "team", "app.kubernetes.io/part-of": "kubeflow-profile"},
    "kubeflow": {"kubernetes.io/metadata.name": "kubeflow"},
    "kube-system": {"kubernetes.io/metadata.name": "kube-system"},
    "default": {"kubernetes.io/metadata.name": "default"},
}


@dataclass(frozen=True)
class End:
    """A pod, or an address outside the cluster."""

    space: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = "10.244.0.9"
    ports: Mapping[str, int] = field(default_factory=dict)  # that have a name


OURS = {"app.kubernetes.io/part-of": "nvembed"}
TASK = End("nvembed", {"pipelines.kubeflow.org/v2_component": "true"})
NODE = End("nvembed", {**OURS, "app.kubernetes.io/component": "training", "jobset.sigs.k8s.io/jobset-name": "nv-1-s1"})
REAPER = End("nvembed", {**OURS, "app.kubernetes.io/component": "upkeep", "app.kubernetes.io/name": "nvembed-reaper"})
MLFLOW = End("nvembed", {**OURS, "app.kubernetes.io/name": "mlflow"}, ports={"http": 5000})
BACKUP = End("nvembed", {**OURS, "app.kubernetes.io/name": "mlflow-backup"})
POSTGRES = End("nvembed", {**OURS, "app.kubernetes.io/name": "postgres"}, ports={"postgres": 5432})
STRANGER = End("default", {"app": "stranger"})
KFP = End("kubeflow", {"app": "ml-pipeline"})
KFP_DATABASE = End("kubeflow", {"app": "mysql"})
METADATA = End("kubeflow", {"component": "metadata-grpc-server"})
SEAWEED, MINIO = End("kubeflow", {"app": "seaweedfs"}), End("kubeflow", {"app": "minio"})
OTHER_TASK = End("team", {"pipelines.kubeflow.org/v2_component": "true"})
DNS = End("kube-system", {"k8s-app": "kube-dns"})
API, HUB, HUB6 = End(address="10.96.0.1"), End(address="18.164.1.1"), End(address="2600:9000::1")
CLOUD = End(address="169.254.169.254")  # hands out a node's own credentials

NEEDED = [
    *((one, DNS, (53, how)) for one in (TASK, NODE, REAPER, MLFLOW, BACKUP) for how in ("UDP", "TCP")),
    *((TASK, API, port) for port in (443, 6443)),
    *((TASK, KFP, port) for port in (8887, 8888)),
    *((TASK, METADATA, 8080), (TASK, SEAWEED, 8333), (TASK, MINIO, 9000), (TASK, MLFLOW, 5000)),
    *((TASK, HUB, 443), (TASK, HUB6, 443), (NODE, HUB, 443), (NODE, HUB6, 443)),
    *((NODE, NODE, port) for port in (29500, 41234, (53123, "UDP"))),
    *((REAPER, API, 443), (REAPER, API, 6443), (REAPER, HUB6, 443), (REAPER, MLFLOW, 5000)),
    *((OTHER_TASK, MLFLOW, 5000), (KFP, MLFLOW, 5000)),
]
SHUT = [
    *((TASK, HUB, port) for port in (80, 22, 5000, 8333)),
    *((one, CLOUD, port) for one in (TASK, NODE, REAPER) for port in (80, 443)),
    *((TASK, DNS, 9153), (TASK, SEAWEED, 8888), (TASK, SEAWEED, 19333)),
    *((TASK, KFP_DATABASE, 3306), (TASK, KFP, 3306), (TASK, METADATA, 9000), (TASK, MLFLOW, 22)),
    *((TASK, STRANGER, 8080), (TASK, POSTGRES, 5432), (TASK, NODE, 29500), (TASK, REAPER, 8080)),
    *((NODE, MLFLOW, 5000), (NODE, KFP, 8888), (NODE, API, 6443), (NODE, STRANGER, 8080)),
    *((one, NODE, 29500) for one in (MLFLOW, REAPER, STRANGER, KFP, OTHER_TASK)),
    *((REAPER, KFP, 8888), (REAPER, SEAWEED, 8333), (MLFLOW, TASK, 8080)),
    *((STRANGER, MLFLOW, 5000), (STRANGER, TASK, 8080), (OTHER_TASK, MLFLOW, 22)),
]
ours = pytest.mark.parametrize("overlay", ["plain", "gpu", "production"])


def chosen(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    for one in selector.get("matchExpressions", []):
        assert one["operator"] in ("In", "Exists"), one
        wanted &= one["key"] in labels and labels[one["key"]] in one.get("values", [labels[one["key"]]])
    return wanted


def meets(peer: Mapping[str, Any], end: End, space: str) -> bool:
    """Whether a rule of a namespace's policy means this end."""
    if block := peer.get("ipBlock"):
        address = ipaddress.ip_address(end.address)
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(one) for one in block.get("except", [])
        )
    if not end.space or (end.space != space and "namespaceSelector" not in peer):
        return False
    return chosen(peer.get("namespaceSelector", {}), SPACES[end.space]) and chosen(
        peer.get("podSelector", {}), end.labels
    )


def lets(rule: Mapping[str, Any], way: str, peer: End, target: End, port: tuple[int, str], space: str) -> bool:
    peers, ports = rule.get(way), rule.get("ports")
    opened = ports is None or any(
        (target.ports.get(one["port"], one["port"]), one.get("protocol", "TCP")) == port for one in ports
    )
    return opened and (peers is None or any(meets(one, peer, space) for one in peers))


def reaches(objects: list[dict[str, Any]], source: End, target: End, port: int | tuple[int, str]) -> bool:
    """Whether policies let the connection out at its source and in at its target."""
    number = port if isinstance(port, tuple) else (port, "TCP")
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    for end, kind, way, peer in ((source, "Egress", "to", target), (target, "Ingress", "from", source)):
        space = end.space
        held = [
            one["spec"]
            for one in policies
            if one["metadata"]["namespace"] == space
            and kind in one["spec"]["policyTypes"]
            and chosen(one["spec"]["podSelector"], end.labels)
        ]
        rules = [rule for spec in held for rule in spec.get(kind.lower(), [])]
        if held and not any(lets(rule, way, peer, target, number, space) for rule in rules):
            return False
    return True


def told(way: tuple[End, End, Any]) -> str:
    source, target, port = way
    names = ["/".join([end.space or end.address, *sorted(end.labels.values())[-1:]]) for end in (source, target)]
    return f"{' to '.join(names)} {port}"


@ours
@pytest.mark.parametrize("way", NEEDED, ids=told)
def test_every_way_that_is_needed_is_open(overlay: str, way: tuple[End, End, Any]) -> None:
    assert reaches(built(overlay), *way)


@ours
@pytest.mark.parametrize("way", SHUT, ids=told)
def test_no_other_way_is(overlay: str, way: tuple[End, End, Any]) -> None:
    assert not reaches(built(overlay), *way)


def test_productions_server_reaches_its_database_and_bucket_and_the_plain_one_nothing() -> None:
    for way in ((MLFLOW, POSTGRES, 5432), (MLFLOW, HUB, 443), (BACKUP, POSTGRES, 5432), (MLFLOW, CLOUD, 80)):
        assert reaches(built("production"), *way)
    assert not reaches(built("production"), MLFLOW, HUB, 80)
    for way in ((MLFLOW, HUB, 443), (MLFLOW, POSTGRES, 5432), (MLFLOW, API, 443), (MLFLOW, CLOUD, 80)):
        assert not reaches(built("plain"), *way)


@ours
def test_what_leads_anywhere_is_tls_and_never_the_nodes_own_credentials(overlay: str) -> None:
    for policy in (one for one in built(overlay) if one["kind"] == "NetworkPolicy"):
        name = policy["metadata"]["name"]
        for rule in policy["spec"].get("egress", []):
            blocks = [peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer]
            ports = {one["port"] for one in rule.get("ports", [])}
            if any(block["cidr"] in ("0.0.0.0/0", "::/0") for block in blocks):
                assert ports <= {443, 6443} and ports, name
                assert all(block["except"] for block in blocks), name
            elif "to" not in rule:
                assert (name, ports) == ("allow-mlflow-stores", {5432}), name
            if not ports:
                assert name == "allow-training", name


def test_mlflows_port_by_name_is_the_one_that_tasks_are_told() -> None:
    (box,) = named(built("plain"), "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    assert {one["name"]: one["containerPort"] for one in box["ports"]}["http"] == MLFLOW.ports["http"]
    settings = named(built("plain"), "ConfigMap", "nvembed", "nvembed")["data"]
    assert settings["MLFLOW_TRACKING_URI"].endswith(f":{MLFLOW.ports['http']}")
