"""The state of the stand-in for the Kubernetes API (`fake_k8s`), and what requests do to it."""

import copy
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cluster.crd import faults as faults_of_trainjob
from cluster.fake_routes import CLUSTER_WIDE, KINDS, Refusal, Route, Tree, merged


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Log:
    """A container's log: (time in nanoseconds, text), and whether it has ended."""

    lines: list[tuple[int, str]] = field(default_factory=list)
    ended: bool = False


@dataclass
class Api:
    """The cluster's state.

    `denied` holds (verb, resource) that we have no right to; `absent` plurals of kinds that are not installed; `also`
    (group, version) that are served with kinds unknown here; `faults` is asked before each request (method, path,
    query) and names what goes wrong, or None.
    """

    denied: set[tuple[str, str]] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    also: set[tuple[str, str]] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)  # fields of a TrainJob's spec that the CRD installed does not know
    git_version: str = "v1.36.1"
    faults: Callable[[str, str, dict[str, list[str]]], str | None] = lambda *_: None
    url: str = ""
    requests: list[str] = field(default_factory=list)
    objects: dict[str, dict[tuple[str, str], Tree]] = field(default_factory=dict)
    logs: dict[tuple[str, str], Log] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    version: int = 100
    history: list[tuple[int, str, str, Tree]] = field(default_factory=list)
    forgotten: int = 0  # a watch from before this version gets 410

    # what tests and controllers do: no rights asked, no faults
    def put(self, plural: str, tree: Tree, namespace: str = "team") -> Tree:
        """Create an object, or replace it; as it is kept."""
        with self.changed:
            return self._store(plural, "" if plural in CLUSTER_WIDE else namespace, copy.deepcopy(tree))

    def find(self, plural: str, name: str, namespace: str = "team") -> Tree | None:
        with self.changed:
            key = ("" if plural in CLUSTER_WIDE else namespace, name)
            return copy.deepcopy(self.objects.get(plural, {}).get(key))

    def all(self, plural: str) -> list[Tree]:
        with self.changed:
            return copy.deepcopy(list(self.objects.get(plural, {}).values()))

    def change(self, plural: str, name: str, edit: Callable[[Tree], None], namespace: str = "team") -> None:
        """Edit an object in place, if it is there."""
        with self.changed:
            key = ("" if plural in CLUSTER_WIDE else namespace, name)
            if (tree := self.objects.get(plural, {}).get(key)) is not None:
                before = copy.deepcopy(tree)
                edit(tree)
                if tree != before:
                    self._store(plural, key[0], tree)

    def remove(self, plural: str, name: str, namespace: str = "team") -> None:
        with self.changed:
            key = ("" if plural in CLUSTER_WIDE else namespace, name)
            if (tree := self.objects.get(plural, {}).pop(key, None)) is not None:
                self.version += 1
                tree["metadata"]["resourceVersion"] = str(self.version)
                self.history.append((self.version, plural, "DELETED", tree))
                if plural == "pods":
                    self.logs.setdefault(key, Log()).ended = True
                    self.logs.pop(key, None)
                self.changed.notify_all()

    def say(self, pod: str, text: str, namespace: str = "team") -> None:
        """A line of a pod's log."""
        with self.changed:
            self.logs.setdefault((namespace, pod), Log()).lines.append((time.time_ns(), text))
            self.changed.notify_all()

    def end_log(self, pod: str, namespace: str = "team") -> None:
        with self.changed:
            self.logs.setdefault((namespace, pod), Log()).ended = True
            self.changed.notify_all()

    def tell(self, about: str, reason: str, message: str, kind: str = "Warning", namespace: str = "team") -> None:
        """An event about an object."""
        event = {
            "metadata": {"name": f"{about}.{uuid.uuid4().hex[:8]}"},
            "involvedObject": {"name": about, "namespace": namespace},
            "reason": reason,
            "message": message,
            "type": kind,
            "lastTimestamp": now(),
        }
        self.put("events", event, namespace)

    def forget_history(self) -> None:
        """As the API server compacts: older watches get 410."""
        with self.changed:
            self.forgotten = self.version
            self.history.clear()

    def collect(self) -> None:
        """The garbage collector: dependents of what is gone, and of what is deleted in the foreground, go."""
        with self.changed:
            everything = [(plural, key, tree) for plural, kept in self.objects.items() for key, tree in kept.items()]
            living = {tree["metadata"]["uid"] for _, _, tree in everything}
            dying = {t["metadata"]["uid"] for _, _, t in everything if t["metadata"].get("deletionTimestamp")}
            for plural, key, tree in everything:
                owners = {one["uid"] for one in tree["metadata"].get("ownerReferences", [])}
                if (owners and not owners & living) or owners & dying:
                    self._delete(plural, key, "Background")
            for plural, key, tree in everything:
                if tree["metadata"].get("deletionTimestamp") and not self._dependents(tree["metadata"]["uid"]):
                    self.remove(plural, key[1], key[0] or "team")

    def _dependents(self, uid: str) -> bool:
        return any(
            one["uid"] == uid
            for kept in self.objects.values()
            for tree in kept.values()
            for one in tree["metadata"].get("ownerReferences", [])
        )

    def _store(self, plural: str, namespace: str, tree: Tree) -> Tree:
        metadata = tree.setdefault("metadata", {})
        key = (namespace, metadata["name"])
        self.version += 1
        kept = self.objects.setdefault(plural, {})
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", now())
        if namespace:
            metadata["namespace"] = namespace
        metadata["resourceVersion"] = str(self.version)
        group, version, _ = next(kind for kind in KINDS if kind[2] == plural)
        tree.setdefault("apiVersion", f"{group}/{version}" if group else version)
        tree.setdefault("kind", KINDS[(group, version, plural)])
        self.history.append((self.version, plural, "MODIFIED" if key in kept else "ADDED", copy.deepcopy(tree)))
        kept[key] = tree
        self.changed.notify_all()
        return copy.deepcopy(tree)

    def _delete(self, plural: str, key: tuple[str, str], propagation: str) -> None:
        tree = self.objects.get(plural, {}).get(key)
        if tree is None:
            return
        if propagation == "Foreground" and self._dependents(tree["metadata"]["uid"]):
            tree["metadata"].setdefault("deletionTimestamp", now())
            self._store(plural, key[0], tree)
        else:
            self.remove(plural, key[1], key[0] or "team")

    # what requests do
    def groups(self) -> Tree:
        """The groups that are served, with their versions."""
        served = {(group, version) for group, version, plural in KINDS if group and plural not in self.absent}
        found = [
            {"name": name, "versions": [{"groupVersion": f"{name}/{one}", "version": one}]}
            for name, one in sorted(served | self.also)
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}

    def allowed(self, verb: str, resource: str) -> bool:
        return (verb, resource) not in self.denied

    def answer(self, method: str, route: Route, body: Any) -> tuple[int, Tree]:
        """Status and body of a request that is no stream."""
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(method)
        verb = verb or ("get" if route.name else "list")
        self.check_right(verb, route)
        with self.changed:
            kept = self.objects.setdefault(route.plural, {})
            key = (route.namespace, route.name)
            if method == "POST":
                return 201, self._create(route, body)
            if not route.name:
                found = [copy.deepcopy(tree) for tree in kept.values() if route.selects(tree)]
                return 200, {
                    "kind": f"{route.kind}List",
                    "apiVersion": route.api_version,
                    "metadata": {"resourceVersion": str(self.version)},
                    "items": found,
                }
            if key not in kept:
                raise Refusal(404, "NotFound", f'{route.resource} "{route.name}" not found', route.name)
            if method == "GET":
                return 200, copy.deepcopy(kept[key])
            if method == "DELETE":
                return 200, self._deletion(route, key, body or {})
            return 200, self._update(route, key, body, merge=method == "PATCH")

    def _create(self, route: Route, tree: Tree) -> Tree:
        name = tree["metadata"]["name"]
        if (route.namespace, name) in self.objects[route.plural]:
            raise Refusal(409, "AlreadyExists", f'{route.resource} "{name}" already exists', name)
        if route.plural == "trainjobs":
            self._check_fields(route, tree)
            if found := faults_of_trainjob(tree):
                raise Refusal(422, "Invalid", f'TrainJob "{name}" is invalid: {"; ".join(found)}', name)
            runtime = tree["spec"]["runtimeRef"]["name"]
            if ("", runtime) not in self.objects.get("clustertrainingruntimes", {}):
                raise Refusal(
                    403,
                    "Forbidden",
                    'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: spec.RuntimeRef: '
                    f'Invalid value: "{runtime}": specified clusterTrainingRuntime must be created before the TrainJob '
                    "is created",
                )
        for made in ("uid", "resourceVersion", "creationTimestamp"):
            tree["metadata"].pop(made, None)
        return self._store(route.plural, route.namespace, tree)

    def _check_fields(self, route: Route, tree: Tree) -> None:
        """Unknown fields are refused if that was asked for, and else dropped without a word."""
        if not (found := sorted(self.unknown & tree["spec"].keys())):
            return
        if route.one("fieldValidation") == "Strict":
            told = f'strict decoding error: unknown field "spec.{found[0]}"'
            raise Refusal(400, "BadRequest", f'TrainJob in version "v1alpha1" cannot be handled as a TrainJob: {told}')
        for name in found:
            del tree["spec"][name]

    def _update(self, route: Route, key: tuple[str, str], body: Tree, *, merge: bool) -> Tree:
        kept = self.objects[route.plural][key]
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted is not None and wanted != kept["metadata"]["resourceVersion"]:
            raise Refusal(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {route.resource} "{key[1]}": the object has been modified; please '
                "apply your changes to the latest version and try again",
                key[1],
            )
        tree = merged(kept, body) if merge else {**body}
        tree["metadata"] = {**tree["metadata"], "uid": kept["metadata"]["uid"]}
        tree["metadata"]["creationTimestamp"] = kept["metadata"]["creationTimestamp"]
        return self._store(route.plural, route.namespace, tree)

    def _deletion(self, route: Route, key: tuple[str, str], options: Tree) -> Tree:
        kept = self.objects[route.plural][key]
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted is not None and wanted != kept["metadata"]["uid"]:
            raise Refusal(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {route.resource} "{key[1]}": the UID in the precondition ({wanted}) '
                f"does not match the UID in record ({kept['metadata']['uid']})",
                key[1],
            )
        self._delete(route.plural, key, options.get("propagationPolicy", "Background"))
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def check_right(self, verb: str, route: Route) -> None:
        resource = f"{route.plural}/log" if route.log else route.plural
        if not self.allowed(verb, resource):
            raise Refusal(
                403,
                "Forbidden",
                f'{route.resource} is forbidden: User "system:serviceaccount:team:default-editor" cannot {verb} '
                f'resource "{resource}" in API group "{route.group}" in the namespace "{route.namespace}"',
            )
