"""What must be there before a TrainJob is made: rights, Trainer and its runtime, the queue, the volume, the GPUs.

Some of it may be hidden from us (cluster-wide objects often are). What cannot be looked at is left to the API server
and to the pods' own events, which tell it later.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from nvembed.cluster import support
from nvembed.cluster.api import Cluster, NotFound, Refused
from nvembed.cluster.trainjob import CONTAINER, GROUP, PLURAL, VERSION, Here
from nvembed.core.errors import UserError
from nvembed.recipe import Resources

logger = logging.getLogger(__name__)
Right = tuple[str, str, str, str]  # group, resource, subresource, verb
RIGHTS = (
    *((GROUP, PLURAL, "", verb) for verb in ("create", "get", "list", "watch", "delete")),
    *(("", "pods", "", verb) for verb in ("get", "list")),
    ("", "pods", "log", "get"),
    ("", "events", "", "list"),
)
QUEUES = (support.KUEUE.group, support.KUEUE.version, "localqueues")
ROLE = "manifests/60-service-account.yaml"
SHARED = "ReadWriteMany"


def check_cluster(cluster: Cluster, resources: Resources, here: Here) -> None:
    """Raise UserError for the first thing that is missing, with what mends it. Rights are `check_rights`'s."""
    check_runtime(cluster, resources)
    _check_queue(cluster, resources)
    for claim in here.claims:
        _check_claim(cluster, claim)
    if not here.claims:
        raise UserError(
            f"pod {here.pod} mounts no volume claim, so nodes of a TrainJob could not see $NVEMBED_STATE; give the "
            "pipeline's parameter state_claim a claim with ReadWriteMany"
        )
    _check_accelerators(cluster, resources)


def check_rights(cluster: Cluster, rights: Iterable[Right]) -> None:
    """Raise UserError for the rights among these that we lack."""
    if missing := missing_rights(cluster, rights):
        raise UserError(
            f"namespace {cluster.namespace}: the service account may not {', '.join(missing)}; bind the Role of "
            f"{ROLE} to it, or submit with the service account that has it"
        )


def missing_rights(cluster: Cluster, rights: Iterable[Right], *, everywhere: bool = False) -> list[str]:
    """Which of these the API server says we lack, as `verb resource.group`; none where it does not even tell.

    `everywhere`: rights on what belongs to no namespace.
    """
    from kubernetes import client

    missing = []
    for group, resource, subresource, verb in rights:
        asked = client.V1ResourceAttributes(
            group=group,
            resource=resource,
            subresource=subresource,
            verb=verb,
            namespace=None if everywhere else cluster.namespace,
        )
        review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=asked))
        try:
            answer = cluster.call("ask for our rights", cluster.authorization.create_self_subject_access_review, review)
        except Refused:
            return []  # the calls themselves will tell
        if not answer.status.allowed:
            whole = f"{resource}/{subresource}" if subresource else resource
            missing.append(f"{verb} {whole}{f'.{group}' if group else ''}")
    return missing


def check_runtime(cluster: Cluster, resources: Resources) -> None:
    wanted = resources.trainjob
    namespaced = wanted.runtime_kind == "TrainingRuntime"
    try:
        found = cluster.get(GROUP, VERSION, f"{wanted.runtime_kind.lower()}s", wanted.runtime, namespaced=namespaced)
    except NotFound as error:
        if not error.kind_is_known:
            raise UserError(
                f"this cluster has no {GROUP}/{VERSION}: install Kubeflow Trainer {support.TRAINER.least} or newer, or "
                "set resources.launcher=pod"
            ) from None
        where = f" in namespace {cluster.namespace}" if namespaced else ""
        raise UserError(
            f"resources.trainjob.runtime: there is no {wanted.runtime_kind} {wanted.runtime}{where}; install it, or "
            "name one that `kubectl get clustertrainingruntimes` lists"
        ) from None
    except Refused:
        logger.info("runtimes may not be looked at; Trainer will tell whether %s is there", wanted.runtime)
        return
    policy, jobs = found["spec"].get("mlPolicy", {}), found["spec"]["template"]["spec"].get("replicatedJobs", [])
    if "torch" not in policy:
        raise UserError(
            f"resources.trainjob.runtime: {wanted.runtime} has no mlPolicy.torch, without which nobody sets what "
            "torchrun needs; name a runtime for torch (the one for DeepSpeed is MPI's)"
        )
    if not any(job["name"] == CONTAINER and _has_container(job) for job in jobs):
        raise UserError(
            f"resources.trainjob.runtime: {wanted.runtime} has no replicated job {CONTAINER!r} with a container of "
            "that name; name a runtime that is built as torch-distributed is"
        )


def _has_container(job: dict[str, Any]) -> bool:
    containers = job["template"]["spec"]["template"]["spec"]["containers"]
    return any(container["name"] == CONTAINER for container in containers)


def _check_queue(cluster: Cluster, resources: Resources) -> None:
    queue = resources.trainjob.queue
    if queue is None:
        return
    try:
        cluster.get(*QUEUES, queue)
    except NotFound as error:
        if not error.kind_is_known:
            raise UserError(
                f"resources.trainjob.queue is {queue}, but this cluster has no {support.KUEUE.api}: install Kueue "
                f"{support.KUEUE.least} or newer, or leave queue out"
            ) from None
        raise UserError(
            f"resources.trainjob.queue: there is no LocalQueue {queue} in namespace {cluster.namespace}; make it, or "
            "name one that `kubectl get localqueues` lists"
        ) from None
    except Refused:
        logger.info("queues may not be looked at; a job in one that is missing would wait for ever")


def _check_claim(cluster: Cluster, claim: str) -> None:
    try:
        modes = claim_modes(cluster, claim)
    except Refused:
        return
    except NotFound:
        raise UserError(f"namespace {cluster.namespace}: there is no volume claim {claim}; make it first") from None
    if SHARED not in modes:
        raise UserError(
            f"volume claim {claim} is {', '.join(modes) or 'of no access mode'}, but a TrainJob's nodes mount it "
            "beside this task: it needs ReadWriteMany (NFS, CephFS, Filestore, EFS)"
        )


def claim_modes(cluster: Cluster, claim: str) -> list[str]:
    """A volume claim's access modes. Raises NotFound, Refused."""
    what = f"get claim {claim}"
    found = cluster.tree(what, cluster.core.read_namespaced_persistent_volume_claim, claim, cluster.namespace)
    return list(found.get("status", {}).get("accessModes") or found["spec"].get("accessModes") or [])


def devices(cluster: Cluster, accelerator: str) -> list[int]:
    """How many of such a device each node can give. Raises NotFound, Refused."""
    nodes = cluster.tree("list nodes", cluster.core.list_node)["items"]
    return [int(node["status"].get("allocatable", {}).get(accelerator, 0)) for node in nodes]


def _check_accelerators(cluster: Cluster, resources: Resources) -> None:
    """More than the largest node has can never run. No such device at all may just mean an autoscaler at rest."""
    if not resources.accelerators:
        return
    try:
        found = devices(cluster, resources.accelerator)
    except (Refused, NotFound):
        return
    if not any(found):
        logger.warning("no node has %s now; the job waits until one comes", resources.accelerator)
    elif max(found) < resources.accelerators:
        raise UserError(
            f"resources.accelerators is {resources.accelerators}, but no node has more than {max(found)} "
            f"{resources.accelerator}; lower accelerators and processes, and raise nodes"
        )
