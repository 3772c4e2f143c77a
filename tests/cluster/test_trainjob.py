"""The TrainJob that is made: held against the CRD's schema, and for what it takes from the pod that asks."""

import json

import pytest
from cluster.crd import faults
from cluster.jobs import RUN, launching_pod, resources, workflow
from pydantic import ValidationError

from nvembed.cluster.trainjob import Here, job_name, train_job
from nvembed.core.errors import UserError

EVERYTHING = {
    "device": "cuda",
    "nodes": 4,
    "processes": 8,
    "accelerators": 8,
    "cpu": "96",
    "memory": "900Gi",
    "trainjob": {
        "queue": "gpus",
        "priority_class": "urgent",
        "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
        "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
        "shm": "64Gi",
        "deadline_hours": 48,
        "env": {"NCCL_SOCKET_IFNAME": "eth0", "NCCL_DEBUG": "WARN"},
    },
}


def here(**spec):
    owner = workflow()
    owner["metadata"]["uid"] = "u-1"
    return Here.of(launching_pod(owner, **spec))


def made(pod=None, **changes):
    words = {"namespace": "team", "run_id": RUN, "stage": "stage2", "work": "d", "attempt": "a", "command": ["nvembed"]}
    return train_job(resources(**changes), pod or here(), **words)


def pod_patch(job):
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"
    return replicated["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_the_job_passes_the_crds_schema_with_no_unknown_field(changes):
    assert faults(made(here(imagePullSecrets=[{"name": "registry"}]), **changes)) == []


def test_the_schema_check_can_fail():
    job = made()
    job["spec"]["trainer"]["numNode"] = 2
    job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]["template"][
        "spec"
    ]["template"]["spec"]["priorityClassName"] = "high"
    found = " ".join(faults(job))
    assert "numNode" in found and "priorityClassName" in found


def test_what_the_recipe_says_is_there():
    job = made(**EVERYTHING)
    assert job["metadata"]["labels"] == {
        "app.kubernetes.io/part-of": "nvembed",
        "app.kubernetes.io/managed-by": "nvembed",
        "pipeline/runid": RUN,
        "nvembed.dev/stage": "stage2",
        "kueue.x-k8s.io/queue-name": "gpus",
        "kueue.x-k8s.io/priority-class": "urgent",
    }
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (4, 8)
    assert trainer["resourcesPerNode"] == {
        "requests": {"cpu": "96", "memory": "900Gi", "nvidia.com/gpu": "8"},
        "limits": {"memory": "900Gi", "nvidia.com/gpu": "8"},
    }
    assert {"name": "NCCL_SOCKET_IFNAME", "value": "eth0"} in trainer["env"]
    assert job["spec"]["activeDeadlineSeconds"] == 48 * 3600
    pod = pod_patch(job)
    assert {"name": "nvembed-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}} in pod["volumes"]
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}


def test_the_jobs_pods_are_the_tasks_kin_and_hold_no_secrets_value():
    job = made()
    assert job["spec"]["trainer"]["image"] == "registry.example/nvembed@sha256:" + "0" * 64
    names = {one["name"]: one for one in job["spec"]["trainer"]["env"]}
    assert {"NVEMBED_STATE", "HF_TOKEN"} <= names.keys()
    assert names["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    wanted = {"name": "nvembed-stores", "key": "AWS_SECRET_ACCESS_KEY", "optional": True}
    assert names["AWS_SECRET_ACCESS_KEY"]["valueFrom"] == {"secretKeyRef": wanted}
    assert "configMapKeyRef" in names["HF_HOME"]["valueFrom"]
    ours = {"KFP_POD_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "PLANTED"}
    assert not ours & names.keys(), "what is the launcher's alone, or MLflow's, to whom only the task speaks"
    assert "s3cr3t-value" not in json.dumps(job)
    pod = pod_patch(job)
    (container,) = pod["containers"]
    assert {"name": "state", "mountPath": "/state"} in container["volumeMounts"]
    assert {"name": "models", "mountPath": "/models"} in container["volumeMounts"]
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "nvembed-models"}} in pod["volumes"]
    assert "kfp-launcher" not in json.dumps(pod)
    assert pod["securityContext"] == {
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_owner_is_the_workflow_and_never_the_pod():
    (owner,) = made()["metadata"]["ownerReferences"]
    assert owner == {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "name": "nvembed-abcde",
        "uid": "u-1",
        "controller": False,
        "blockOwnerDeletion": False,
    }


def test_names_begin_with_a_letter_and_leave_room_for_the_pods():
    assert job_name("0123", "stage1") == "nv-1be2e452b46d-s1"  # sha256 of 0123, by sha256sum
    assert len(job_name(RUN, "stage2") + "-node-0-1000-abcde") <= 63
    with pytest.raises(UserError, match="ten small letters"):
        job_name(RUN, "Stage_One")


def test_a_run_id_that_is_no_label_is_refused():
    with pytest.raises(UserError, match="label value"):
        train_job(
            resources(), here(), namespace="t", run_id="a b", stage="stage1", work="", attempt="", command=["nvembed"]
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "cuda", "processes": 8, "accelerators": 4}, "above accelerators"),
        ({"trainjob": {"priority_class": "urgent"}}, "queue is not set"),
        ({"trainjob": {"env": {"HF_TOKEN": "x"}}}, "secret parameters"),
        ({"trainjob": {"env": {"PET_NNODES": "2"}}}, "keys of their own"),
        ({"trainjob": {"tolerations": [{"operator": "Equal", "key": "a"}]}}, "needs key and value"),
        ({"trainjob": {"deadline_hours": 400}}, "ended after 336 hours"),
        ({"trainjob": {"runtme": "x"}}, "Extra inputs"),
    ],
)
def test_what_contradicts_itself_is_refused_by_the_recipe(changes, said):
    with pytest.raises(ValidationError, match=said):
        resources(**changes)
