"""What the tests of TrainJobs share: a launching pod, a recipe's resources, work to be done, a launching process."""

import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.fake_routes import Tree
from cluster.fake_store import Api
from cluster.fake_trainer import RUNTIME

from nvembed.cluster.api import Cluster
from nvembed.cluster.launching import Launch, Timing
from nvembed.cluster.trainjob import job_name
from nvembed.recipe import Resources

RUN = "0b7e1f6e-5d0c-4f5e-9e53-7d6f0f0f9f10"
POD = "nvembed-abcde-system-container-impl-1"
QUICK = Timing(look=0.05, stuck=0.2, logs=0.02)
NAME = job_name(RUN, "stage1")


def resources(**changes: Any) -> Resources:
    """Two nodes of one process each, as a recipe asks for them."""
    tree = {"launcher": "trainjob", "nodes": 2, "device": "cpu", "cpu": "1", "memory": "1Gi"}
    return Resources.model_validate({**tree, **changes})


def workflow(phase: str = "Running", name: str = "nvembed-abcde", run_id: str = RUN) -> Tree:
    return {
        "metadata": {"name": name, "labels": {"pipeline/runid": run_id}},
        "status": {"phase": phase},
    }


def launching_pod(owner: Tree, **spec: Any) -> Tree:
    """A KFP task's pod, as far as anybody reads it."""
    reference = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": owner["metadata"]["name"]}
    reference |= {"uid": owner["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True}
    config = {"configMapKeyRef": {"name": "nvembed", "key": "NVEMBED_STATE"}}
    stores = {"name": "nvembed-stores", "optional": True}
    main = {
        "name": "main",
        "image": "registry.example/nvembed@sha256:" + "0" * 64,
        "env": [
            {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NVEMBED_STATE", "valueFrom": config},
            {"name": "MLFLOW_TRACKING_URI", "valueFrom": {"configMapKeyRef": {"name": "nvembed", "key": "M"}}},
            {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
            {"name": "HF_HOME", "valueFrom": {"configMapKeyRef": {**config["configMapKeyRef"], "key": "HF_HOME"}}},
            {
                "name": "AWS_SECRET_ACCESS_KEY",
                "valueFrom": {"secretKeyRef": {**stores, "key": "AWS_SECRET_ACCESS_KEY"}},
            },
            {"name": "MLFLOW_TRACKING_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "t", "key": "p"}}},
            {"name": "PLANTED", "value": "s3cr3t-value"},
        ],
        "volumeMounts": [
            {"name": "state", "mountPath": "/state"},
            {"name": "models", "mountPath": "/models"},
            {"name": "kfp-launcher", "mountPath": "/kfp-launcher"},
        ],
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": True},
    }
    return {
        "metadata": {"name": POD, "labels": {"pipeline/runid": RUN}, "ownerReferences": [reference]},
        "spec": {
            "containers": [{"name": "wait", "image": "argoexec"}, main],
            "volumes": [
                {"name": "kfp-launcher", "emptyDir": {}},
                {"name": "state", "persistentVolumeClaim": {"claimName": "nvembed-state"}},
                {"name": "models", "persistentVolumeClaim": {"claimName": "nvembed-models"}},
            ],
            **spec,
        },
        "status": {"phase": "Running"},
    }


def furnish(api: Api, *, modes: tuple[str, ...] = ("ReadWriteMany",), gpus: int = 0) -> None:
    """What a cluster has on which everything is installed."""
    api.put("clustertrainingruntimes", RUNTIME)
    for name in ("nvembed-state", "nvembed-models"):
        api.put("persistentvolumeclaims", {"metadata": {"name": name}, "spec": {"accessModes": list(modes)}})
    api.put("localqueues", {"metadata": {"name": "gpus"}})
    api.put("nodes", {"metadata": {"name": "one"}, "status": {"allocatable": {"nvidia.com/gpu": str(gpus)}}})
    owner = api.put("workflows", workflow())
    api.put("pods", launching_pod(owner))


def cluster(api: Api, patience: float = 5.0) -> Cluster:
    """The real client on the fake API."""
    from kubernetes import client

    configuration = client.Configuration()
    configuration.host, configuration.retries = api.url, False
    return Cluster("team", client.ApiClient(configuration), patience=patience)


@dataclass
class Deed:
    """Work whose result is a file."""

    folder: Path
    name: str = "stage1"
    digest: str = "d1"
    attempts: list[str] = field(default_factory=list)
    looks: int = 0

    def request(self, attempt: str) -> Path:
        self.attempts.append(attempt)
        return self.folder / f"attempt-{attempt}.json"

    def look(self) -> None:
        self.looks += 1

    def finish(self) -> None:
        (self.folder / "result").write_text("done")

    def finished(self) -> bool:
        return (self.folder / "result").exists()


def launch(api: Api, deed: Deed, patience: float = 5.0, **changes: Any) -> None:
    """One task's whole wait, here in this thread."""
    Launch(cluster(api, patience), resources(**changes), POD, RUN, QUICK).run(deed)


def kubeconfig(api: Api, folder: Path) -> Path:
    """A kubeconfig for processes of their own."""
    path = folder / f"kubeconfig-{uuid.uuid4().hex[:6]}"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        f"clusters: [{{name: c, cluster: {{server: '{api.url}'}}}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n"
    )
    return path


def launcher_process(api: Api, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """A launcher in a process of its own, to be killed or ended by SIGTERM: `launcher.py FOLDER`."""
    variables = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig(api, folder)),
        "NVEMBED_NAMESPACE": "team",
        **environment,
    }
    command = [sys.executable, str(Path(__file__).with_name("launcher.py")), str(folder)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(true, seconds=20.0):
    """Wait for a moment that has to come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(0.01)
