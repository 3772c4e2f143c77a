"""What `nvembed doctor --cluster` looks at: versions against the support table, rights, claims, settings, GPUs.

Asked as whoever the kubeconfig or the pod's token stands for. Only reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nvembed.cluster import support
from nvembed.cluster.api import Cluster, ClusterError, NotFound, Refused, connect
from nvembed.cluster.checks import RIGHTS, ROLE, SHARED, Right, check_runtime, claim_modes, devices, missing_rights
from nvembed.cluster.spec import Compiled, pipeline_file, read_pipeline
from nvembed.cluster.submit import check_endpoint, find_endpoint
from nvembed.core.errors import UserError
from nvembed.core.findings import Finding, guarded
from nvembed.recipe import Resources

LEASES: tuple[Right, ...] = tuple(("coordination.k8s.io", "leases", "", verb) for verb in ("create", "get", "update"))
LOOKING: tuple[Right, ...] = (
    (support.TRAINER.group, "clustertrainingruntimes", "", "get"),
    ("", "nodes", "", "list"),
)
_PATIENCE = 10.0
_MANIFEST = "manifests/50-settings.yaml"
_TRAINER_SPACES = ("kubeflow-system", "kubeflow")
_CONTROLLERS = {  # namespaces and deployment, by the released manifests
    support.TRAINER: (_TRAINER_SPACES, "kubeflow-trainer-controller-manager"),
    support.JOBSET: (("kubeflow-system", "jobset-system", "kubeflow"), "jobset-controller-manager"),
    support.KUEUE: (("kueue-system",), "kueue-controller-manager"),
}


def cluster_findings(endpoint: str | None = None, namespace: str | None = None) -> Iterator[Finding]:
    """Kubeflow Pipelines first, then what its pods need of Kubernetes."""
    yield from guarded("Pipelines", lambda: _pipelines(endpoint))
    try:
        cluster = connect(namespace, patience=_PATIENCE)
        version = cluster.tree("ask for the version", cluster.version.get_code)["gitVersion"]
    except (UserError, ClusterError) as error:
        mend = "name a kubeconfig by KUBECONFIG, and --namespace, or run this in a pod of the cluster"
        yield Finding("Kubernetes", "wrong", str(error), mend)
        return
    yield _held("Kubernetes", support.KUBERNETES, version)
    served: set[str] = set()
    yield from guarded("Trainer", lambda: _training(cluster, served))
    yield from guarded("rights", lambda: _rights(cluster, trains=support.TRAINER.api in served))
    yield from guarded("claims", lambda: _namespace(cluster))
    yield from guarded("GPU nodes", lambda: _gpus(cluster))


def _pipelines(endpoint: str | None) -> Iterator[Finding]:
    try:
        address = find_endpoint(endpoint)
    except UserError:
        yield Finding("Pipelines", "absent", "no endpoint given (--endpoint, KFP_ENDPOINT), so it was not asked")
        return
    try:
        told = check_endpoint(address)
    except UserError as error:
        yield Finding("Pipelines", "wrong", str(error))
        return
    who = "several users" if told.get("multi_user") else "one user: its pods start in Kubeflow's own namespace"
    found = _held("Pipelines", support.PIPELINES, str(told.get("tag_name") or "unknown"))
    yield Finding(found.check, found.state, f"{found.says}; {who}", found.mend)


def _held(check: str, component: support.Component, version: str) -> Finding:
    return Finding(check, *support.held_against(component, version))


def _training(cluster: Cluster, served: set[str]) -> Iterator[Finding]:
    """Trainer, JobSet and Kueue; what is served goes into `served`."""
    groups = cluster.tree("list the API's groups", cluster.groups.get_api_versions)["groups"]
    served |= {f"{group['name']}/{one['version']}" for group in groups for one in group["versions"]}
    for component in (support.TRAINER, support.JOBSET, support.KUEUE):
        others = sorted(one.partition("/")[2] for one in served if one.startswith(f"{component.group}/"))
        name = component.name.rpartition(" ")[2]
        if component.api in served:
            yield _installed(cluster, name, component)
        elif others:
            says = f"serves {component.group} in {', '.join(others)}, not in {component.version}"
            yield Finding(name, "wrong", says, f"take a version from {component.least} to {component.newest}")
        elif component is support.JOBSET and support.TRAINER.api in served:
            yield Finding(name, "wrong", "Trainer is there without it", "Trainer's overlay `manager` brings it")
        else:
            yield Finding(name, "absent", f"not installed; only {component.needed.replace('`', '')} needs it")
    if support.TRAINER.api in served:
        yield _runtime(cluster)


def _installed(cluster: Cluster, name: str, component: support.Component) -> Finding:
    version = _public_version(cluster) if component is support.TRAINER else ""
    version = version or _image(cluster, *_CONTROLLERS[component])
    if not version:
        says = f"serves {component.api}; its version may not be looked at, {component.least} or newer is needed"
        return Finding(name, "ok" if component is not support.TRAINER else "warning", says)
    state, says, mend = support.held_against(component, version.rpartition(":")[2])
    return Finding(name, state, f"{says}, serves {component.api}", mend)


def _public_version(cluster: Cluster) -> str:
    """What Trainer tells everybody since 2.2."""
    for space in _TRAINER_SPACES:
        found = _tree(cluster, cluster.core.read_namespaced_config_map, "kubeflow-trainer-public", space)
        if version := found.get("data", {}).get("kubeflow_trainer_version"):
            return str(version)
    return ""


def _image(cluster: Cluster, spaces: tuple[str, ...], deployment: str) -> str:
    """The image of a controller, which few but administrators may look at."""
    for space in spaces:
        found = _tree(cluster, cluster.apps.read_namespaced_deployment, deployment, space)
        for box in found.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
            if support.version_of(box["image"]):
                return str(box["image"])
    return ""


def _tree(cluster: Cluster, function: Any, name: str, space: str) -> dict[str, Any]:
    try:
        return cluster.tree(f"get {name}", function, name, space)
    except (NotFound, Refused):
        return {}


def _runtime(cluster: Cluster) -> Finding:
    wanted = Resources().trainjob.runtime
    try:
        check_runtime(cluster, Resources())
    except UserError as error:
        return Finding("runtime", "wrong", str(error))
    return Finding("runtime", "ok", f"{wanted}, which recipes name unless they say otherwise")


def _rights(cluster: Cluster, *, trains: bool) -> Iterator[Finding]:
    wanted: list[tuple[str, tuple[Right, ...], bool]] = [("rights", LEASES, False)]
    if trains:
        wanted[0] = ("rights", (*RIGHTS, *LEASES), False)
        wanted.append(("rights, looking", LOOKING, True))
    for name, rights, everywhere in wanted:
        where = "in the whole cluster" if everywhere else f"in namespace {cluster.namespace}"
        if missing := missing_rights(cluster, rights, everywhere=everywhere):
            kind = "ClusterRole" if everywhere else "Role"
            mend = f"bind the {kind} nvembed of {ROLE} to the service account that tasks run as"
            # without the right to look, training runs, and what is missing is said later
            state = "warning" if everywhere else "wrong"
            yield Finding(name, state, f"{where} we may not {', '.join(missing)}", mend)  # type: ignore[arg-type]
        else:
            yield Finding(name, "ok", f"{len(rights)} {where}")


def _namespace(cluster: Cluster) -> Iterator[Finding]:
    """What the compiled pipeline mounts and reads by default."""
    compiled = read_pipeline(pipeline_file())
    for parameter in sorted(compiled.parameters):
        if parameter.endswith("_claim"):
            yield _claim(cluster, f"{parameter.removesuffix('_claim')} claim", compiled.default(parameter))
    yield _settings(cluster, compiled)


def _claim(cluster: Cluster, name: str, claim: str) -> Finding:
    try:
        modes = claim_modes(cluster, claim)
    except NotFound:
        mend = f"{_MANIFEST} makes it; docs/cluster.md says which overlay puts it where pods start"
        return Finding(name, "wrong", f"namespace {cluster.namespace} has no claim {claim}", mend)
    except Refused:
        return Finding(name, "warning", "claims may not be looked at", f"{ROLE} gives that right")
    if SHARED in modes:
        return Finding(name, "ok", f"{claim}, {SHARED}")
    mend = f"{SHARED} (NFS, CephFS, Filestore, EFS) is needed by launcher: trainjob and by tasks on several nodes"
    return Finding(name, "warning", f"{claim} is {', '.join(modes) or 'of no access mode'}", mend)


def _settings(cluster: Cluster, compiled: Compiled) -> Finding:
    name, wanted = "settings", compiled.default("config_map")
    what = f"get config map {wanted}"
    try:
        found = cluster.tree(what, cluster.core.read_namespaced_config_map, wanted, cluster.namespace)
    except NotFound:
        says = f"namespace {cluster.namespace} has no config map {wanted}"
        return Finding(name, "wrong", says, f"{_MANIFEST} makes it")
    except Refused:
        return Finding(name, "warning", "the config map may not be looked at", f"{ROLE} gives that right")
    if missing := sorted(key for key in compiled.settings() if not found.get("data", {}).get(key)):
        says = f"config map {wanted} lacks {', '.join(missing)}"
        return Finding(name, "wrong", says, f"see {_MANIFEST}; without a key no task starts")
    return Finding(name, "ok", f"config map {wanted}")


def _gpus(cluster: Cluster) -> Iterator[Finding]:
    accelerator = Resources().accelerator
    try:
        found = devices(cluster, accelerator)
    except (Refused, NotFound):
        yield Finding("GPU nodes", "absent", "nodes may not be listed")
        return
    if any(found):
        holding = sum(1 for one in found if one)
        says = f"{holding} of {len(found)} nodes have {accelerator}, the largest {max(found)}"
        yield Finding("GPU nodes", "ok", says)
    else:
        yield Finding("GPU nodes", "absent", f"none of {len(found)} nodes has {accelerator} now")
