"""What requests to the stand-in for the Kubernetes API name, how they are refused, and how a patch is merged."""

import copy
from dataclasses import dataclass
from typing import Any

Tree = dict[str, Any]
KINDS = {
    ("", "v1", "pods"): "Pod",
    ("", "v1", "events"): "Event",
    ("", "v1", "nodes"): "Node",
    ("", "v1", "persistentvolumeclaims"): "PersistentVolumeClaim",
    ("", "v1", "configmaps"): "ConfigMap",
    ("apps", "v1", "deployments"): "Deployment",
    ("jobset.x-k8s.io", "v1alpha2", "jobsets"): "JobSet",
    ("trainer.kubeflow.org", "v1alpha1", "trainjobs"): "TrainJob",
    ("trainer.kubeflow.org", "v1alpha1", "clustertrainingruntimes"): "ClusterTrainingRuntime",
    ("trainer.kubeflow.org", "v1alpha1", "trainingruntimes"): "TrainingRuntime",
    ("kueue.x-k8s.io", "v1beta2", "localqueues"): "LocalQueue",
    ("argoproj.io", "v1alpha1", "workflows"): "Workflow",
    ("coordination.k8s.io", "v1", "leases"): "Lease",
}
CLUSTER_WIDE = {"nodes", "clustertrainingruntimes"}


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, reason: str, message: str, name: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
            "details": {"name": name} if name else {},
        }


@dataclass
class Route:
    """What a path names."""

    group: str
    version: str
    namespace: str
    plural: str
    name: str
    log: bool
    query: dict[str, list[str]]

    @classmethod
    def of(cls, path: str, query: dict[str, list[str]]) -> "Route":
        parts = path.strip("/").split("/")
        group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        name = rest[1] if len(rest) > 1 else ""
        return cls(group, version, namespace, rest[0], name, rest[2:] == ["log"], query)

    @property
    def kind(self) -> str:
        return KINDS[(self.group, self.version, self.plural)]

    @property
    def known(self) -> bool:
        return (self.group, self.version, self.plural) in KINDS

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def one(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def selects(self, tree: Tree) -> bool:
        metadata = tree["metadata"]
        if self.namespace and metadata.get("namespace") != self.namespace:
            return False
        labels = metadata.get("labels", {})
        for wanted in filter(None, self.one("labelSelector").split(",")):
            key, equals, value = wanted.partition("=")
            if key not in labels or (equals and labels[key] != value):
                return False
        for wanted in filter(None, self.one("fieldSelector").split(",")):
            key, _, value = wanted.partition("=")
            found: Any = tree
            for part in key.split("."):
                found = (found or {}).get(part)
            if found != value:
                return False
        return True


def merged(tree: Tree, change: Tree) -> Tree:
    """JSON merge patch."""
    made = copy.deepcopy(tree)
    for key, value in change.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = merged(made[key], value)
        else:
            made[key] = copy.deepcopy(value)
    return made
