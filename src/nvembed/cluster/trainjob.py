"""A training stage as a `trainer.kubeflow.org/v1alpha1` TrainJob.

What the recipe does not say comes from the pod of the task that asks: its image, its volume claims, the config maps and
secrets that its environment refers to, its user. So the pipeline's parameters are said once, and no value of a secret
is ever read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nvembed.core.errors import UserError
from nvembed.recipe import Resources

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
MANAGED_BY, US = "app.kubernetes.io/managed-by", "nvembed"
RUN_LABEL = "pipeline/runid"  # the label that Kubeflow Pipelines puts on its workflow and pods
STAGE_LABEL = "nvembed.dev/stage"
WORK, ATTEMPT = "nvembed.dev/work", "nvembed.dev/attempt"
QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
JOBSET = "jobset.sigs.k8s.io/jobset-name"
CONTAINER = "node"  # of the replicated job and of its container, in Trainer's own runtimes
GRACE_SECONDS = 120  # a rank ends its step and writes a checkpoint (`training.launch.GRACE` is 60)
_MANAGER = "nvembed.dev/launcher"
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
# What belongs to KFP's launcher alone would mislead a pod that is none of its own; to MLflow only the task speaks.
_FOREIGN = re.compile(r"KFP_|METADATA_|ML_PIPELINE|ARGO|POD_|NAMESPACE$|KUBERNETES_|MLFLOW_|NVEMBED_NAMESPACE$")
_OURS = re.compile(r"NVEMBED_STATE$|HF_(?!TOKEN)|HUGGINGFACE_HUB_CACHE$|TRANSFORMERS_|AWS_ENDPOINT_URL|AWS_REGION$")
_OWN_MOUNTS = ("/tmp", "/dev/shm", "/kfp-launcher", "/var/run/argo", "/argo", "/gcs", "/s3", "/minio", "/kfp-workspace")


@dataclass(frozen=True)
class Here:
    """The pod that asks for a job.

    Attributes:
        pod: its name.
        image: of the container we run in.
        owner: reference to the Argo Workflow that owns the pod, or None outside a pipeline.
        volumes, mounts: its persistent volume claims and where they are mounted.
        env: variables that refer to config maps and secrets, and our own.
        pull_secrets: names for the registry.
        user: pod-level security context of the job's pods.
        claims: names of the claims.
    """

    pod: str
    image: str
    owner: Mapping[str, Any] | None
    volumes: Sequence[Mapping[str, Any]]
    mounts: Sequence[Mapping[str, Any]]
    env: Sequence[Mapping[str, Any]]
    pull_secrets: Sequence[Mapping[str, Any]]
    user: Mapping[str, Any]

    @property
    def claims(self) -> list[str]:
        """Names of the volume claims."""
        return [volume["persistentVolumeClaim"]["claimName"] for volume in self.volumes]

    @classmethod
    def of(cls, pod: Mapping[str, Any], container: str = "main") -> Here:
        """Read a pod's tree. `container` is the one that runs user code; another one if there is none of that name."""
        spec, metadata = pod["spec"], pod["metadata"]
        main = next((one for one in spec["containers"] if one["name"] == container), spec["containers"][0])
        claims = {one["name"]: one for one in spec.get("volumes", []) if "persistentVolumeClaim" in one}
        mounts = [
            mount
            for mount in main.get("volumeMounts", [])
            if mount["name"] in claims and not mount["mountPath"].startswith(_OWN_MOUNTS)
        ]
        used = {mount["name"] for mount in mounts}
        owner = next((one for one in metadata.get("ownerReferences", []) if one["kind"] == "Workflow"), None)
        context = {**spec.get("securityContext", {}), **main.get("securityContext", {})}
        return cls(
            pod=metadata["name"],
            image=main["image"],
            owner=owner,
            volumes=[claims[name] for name in claims if name in used],
            mounts=mounts,
            env=[one for one in main.get("env", []) if _travels(one)],
            pull_secrets=spec.get("imagePullSecrets", []),
            user={key: context[key] for key in ("runAsUser", "runAsGroup", "fsGroup") if key in context},
        )


def job_name(run_id: str, stage: str) -> str:
    """`nv-<12 digits of the run's digest>-s1`: short enough for its pods' names, which begin with it."""
    short = stage.replace("stage", "s")
    if not re.fullmatch(r"[a-z][-a-z0-9]{0,9}", short):
        raise UserError(f"stage {stage!r}: a job's name takes ten small letters, digits and dashes")
    return f"nv-{hashlib.sha256(run_id.encode()).hexdigest()[:12]}-{short}"


def train_job(
    resources: Resources,
    here: Here,
    *,
    namespace: str,
    run_id: str,
    stage: str,
    work: str,
    attempt: str,
    command: Sequence[str],
) -> dict[str, Any]:
    """The TrainJob as a tree.

    Args:
        resources: the recipe's section.
        here: the pod that asks.
        namespace: the pod's own.
        run_id: of the pipeline run.
        stage: `stage1`, `stage2`.
        work: digest of what the result depends on.
        attempt: tells this creation from an earlier one under the same name.
        command: what each node runs.
    """
    wanted = resources.trainjob
    if not _LABEL_VALUE.fullmatch(run_id):
        raise UserError(f"run id {run_id!r}: is no label value; give it at most 63 letters, digits, dots and dashes")
    metadata: dict[str, Any] = {
        "name": job_name(run_id, stage),
        "namespace": namespace,
        "labels": {
            "app.kubernetes.io/part-of": US,
            MANAGED_BY: US,
            RUN_LABEL: run_id,
            STAGE_LABEL: stage,
            **({QUEUE: wanted.queue} if wanted.queue else {}),
            **({PRIORITY: wanted.priority_class} if wanted.priority_class else {}),
        },
        "annotations": {WORK: work, ATTEMPT: attempt},
    }
    if here.owner is not None:
        # To the workflow, never to the pod: an evicted pod would take the job along just when its retry wants it.
        owner = {key: here.owner[key] for key in ("apiVersion", "kind", "name", "uid")}
        metadata["ownerReferences"] = [{**owner, "controller": False, "blockOwnerDeletion": False}]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": wanted.runtime_kind, "name": wanted.runtime},
            "trainer": {
                "image": here.image,
                "command": list(command),
                "env": _environment(resources, here),
                "numNodes": resources.nodes,
                "numProcPerNode": resources.processes,
                "resourcesPerNode": _resources(resources),
            },
            "runtimePatches": [_patch(resources, here)],
            **({"activeDeadlineSeconds": round(wanted.deadline_hours * 3600)} if wanted.deadline_hours else {}),
        },
    }


def condition(job: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """A job's condition (`Complete`, `Failed`, `Suspended`) if it is true."""
    for one in job.get("status", {}).get("conditions", []):
        if one["type"] == kind and one["status"] == "True":
            return dict(one)
    return None


def _environment(resources: Resources, here: Here) -> list[Mapping[str, Any]]:
    ours: dict[str, Mapping[str, Any]] = {one["name"]: one for one in here.env}
    # The root is read-only; everything else that is written goes to /tmp or the state volume.
    for name, value in {"HOME": "/tmp", "TMPDIR": "/tmp", **resources.trainjob.env}.items():
        ours[name] = {"name": name, "value": value}
    return list(ours.values())


def _resources(resources: Resources) -> dict[str, Any]:
    amounts = {"cpu": resources.cpu, "memory": resources.memory}
    if resources.accelerators:
        amounts[resources.accelerator] = str(resources.accelerators)
    # Memory and devices as limits too: what a neighbour takes beyond its request is what kills a rank.
    return {"requests": amounts, "limits": {key: value for key, value in amounts.items() if key != "cpu"}}


def _patch(resources: Resources, here: Here) -> dict[str, Any]:
    wanted = resources.trainjob
    volumes = [
        *here.volumes,
        {"name": "nvembed-shm", "emptyDir": {"medium": "Memory", "sizeLimit": wanted.shm}},
        {"name": "nvembed-tmp", "emptyDir": {}},
    ]
    mounts = [
        *here.mounts,
        {"name": "nvembed-shm", "mountPath": "/dev/shm"},
        {"name": "nvembed-tmp", "mountPath": "/tmp"},
    ]
    pod: dict[str, Any] = {
        "volumes": volumes,
        "containers": [
            {
                "name": CONTAINER,
                "volumeMounts": mounts,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
        "securityContext": {**here.user, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": GRACE_SECONDS,
    }
    if here.pull_secrets:
        pod["imagePullSecrets"] = list(here.pull_secrets)
    if wanted.node_selector:
        pod["nodeSelector"] = dict(wanted.node_selector)
    if wanted.tolerations:
        pod["tolerations"] = [one.model_dump(exclude_none=True) for one in wanted.tolerations]
    labels = {"app.kubernetes.io/part-of": US, "app.kubernetes.io/component": "training"}
    job = {"name": CONTAINER, "template": {"spec": {"template": {"metadata": {"labels": labels}, "spec": pod}}}}
    return {"manager": _MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}


def _travels(variable: Mapping[str, Any]) -> bool:
    """Whether a variable of the task's container is wanted in the job's pods too."""
    if _FOREIGN.match(variable["name"]):
        return False
    source = variable.get("valueFrom") or {}
    return bool(_OURS.match(variable["name"])) or bool({"configMapKeyRef", "secretKeyRef"} & source.keys())
