"""The Kubernetes API, asked patiently: what passes is tried again, what the user can mend is said in a line.

An API server is away for minutes when a control plane is upgraded, and answers 429 and 5xx when it is busy. None of
that ends a training that takes days, so a call is repeated until `patience` seconds have passed without an answer.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nvembed.core.errors import UserError

logger = logging.getLogger(__name__)
T = TypeVar("T")
PATIENCE = 900.0
_WORD = 30.0  # seconds without an answer after which that is said
CALL_TIMEOUT = (5, 30)  # seconds to connect, to answer
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


class ClusterError(RuntimeError):
    """The cluster did not do what was asked, and it is not known to be the user's to mend."""


class NotFound(Exception):
    """No such object. `kind_is_known` is False where the cluster knows no such kind at all."""

    def __init__(self, message: str, *, kind_is_known: bool) -> None:
        super().__init__(message)
        self.kind_is_known = kind_is_known


class Conflict(Exception):
    """The object exists already, or is another one than was meant."""


class Refused(UserError):
    """The API server forbids it: a right is missing, or an admission webhook says no."""


class Cluster:
    """One namespace of a cluster.

    Args:
        namespace: where everything is looked for.
        client: a `kubernetes.client.ApiClient`; its own repetitions are to be off (`connect` makes it so).
        patience: seconds for which a call that gets no answer is repeated.
    """

    def __init__(self, namespace: str, client: Any, *, patience: float = PATIENCE) -> None:
        from kubernetes import client as kinds

        self.namespace, self.patience = namespace, patience
        self.custom = kinds.CustomObjectsApi(client)
        self.core = kinds.CoreV1Api(client)
        self.authorization = kinds.AuthorizationV1Api(client)
        self.apps = kinds.AppsV1Api(client)
        self.groups = kinds.ApisApi(client)
        self.version = kinds.VersionApi(client)

    def call(self, what: str, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call one of the client's functions. `what` says in words what is being done, for messages.

        Raises:
            NotFound, Conflict: as they say.
            UserError: forbidden, or refused as invalid.
            ClusterError: no answer within `patience`, or one that nobody expects.
        """
        options.setdefault("_request_timeout", CALL_TIMEOUT)
        started, wait, silent = time.monotonic(), 0.25, False
        while True:
            try:
                return function(*arguments, **options)
            except Exception as error:
                asked = passing(error)
                if asked is None:
                    raise plain(error, what, self.namespace) from error
                waited = time.monotonic() - started
                if waited > _WORD and not silent:
                    silent = True
                    logger.warning("%s: no answer yet (%s); trying on for %.0f s", what, told(error), self.patience)
                if waited > self.patience:
                    raise ClusterError(f"{what}: no answer for {self.patience:.0f} s ({told(error)})") from error
                time.sleep(max(asked, wait * random.uniform(0.5, 1.0)))
                wait = min(wait * 2, 20.0)

    def get(self, group: str, version: str, plural: str, name: str, *, namespaced: bool = True) -> dict[str, Any]:
        """A custom object as a tree."""
        what = f"get {plural}.{group} {name}"
        if namespaced:
            found = self.call(
                what, self.custom.get_namespaced_custom_object, group, version, self.namespace, plural, name
            )
        else:
            found = self.call(what, self.custom.get_cluster_custom_object, group, version, plural, name)
        return dict(found)

    def objects(self, group: str, version: str, plural: str, selector: str = "") -> list[dict[str, Any]]:
        """Custom objects of the namespace, by label."""
        what = f"list {plural}.{group}"
        options = {"label_selector": selector} if selector else {}
        found = self.call(
            what, self.custom.list_namespaced_custom_object, group, version, self.namespace, plural, **options
        )
        return list(found["items"])

    def tree(self, what: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any]:
        """`call`, for the answer's JSON as it came.

        The client's own classes refuse what lacks a field that their version holds for necessary.
        """
        options["_preload_content"] = False
        return self.call(what, lambda *a, **o: json.loads(function(*a, **o).data), *arguments, **options)

    def pod(self, name: str) -> dict[str, Any]:
        """One pod."""
        return self.tree(f"get pod {name}", self.core.read_namespaced_pod, name, self.namespace)

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """Pods by label."""
        found = self.tree("list pods", self.core.list_namespaced_pod, self.namespace, label_selector=selector)
        return list(found["items"])

    def events(self, name: str) -> list[dict[str, Any]]:
        """What was told about an object, oldest first; nothing where events may not be read."""
        about = f"involvedObject.name={name}"
        try:
            found = self.tree("list events", self.core.list_namespaced_event, self.namespace, field_selector=about)
        except (UserError, NotFound):
            return []
        return sorted(found["items"], key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def changes(
        self, group: str, version: str, plural: str, name: str, since: str, seconds: float
    ) -> Iterator[Mapping[str, Any]]:
        """Changes of one custom object behind a resource version, for so many seconds.

        Ends early, and quietly, where the connection drops or the version is too old (410): whoever asks looks at the
        object itself next, so nothing is lost.
        """
        from kubernetes import watch

        stream = watch.Watch()
        try:
            yield from stream.stream(
                self.custom.list_namespaced_custom_object,
                group,
                version,
                self.namespace,
                plural,
                field_selector=f"metadata.name={name}",
                resource_version=since,
                timeout_seconds=max(1, round(seconds)),
                _request_timeout=(5, seconds + 10),
            )
        except Exception as error:
            if passing(error) is None and status_of(error) != 410:
                raise plain(error, f"watch {plural}.{group} {name}", self.namespace) from error
            logger.debug("watching %s ended: %s", name, told(error))
            time.sleep(min(1.0, seconds))
        finally:
            stream.stop()


def connect(space: str | None = None, *, patience: float = PATIENCE) -> Cluster:
    """The cluster that this pod runs in, or the one that `KUBECONFIG` names, and there `space` or else `namespace()`.

    Raises UserError where there is neither.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        try:
            file = os.environ.get("KUBECONFIG") or None  # the client reads the variable once, when it is imported
            config.load_kube_config(config_file=file, client_configuration=configuration)
        except (config.ConfigException, OSError, TypeError) as error:
            raise UserError(
                f"no Kubernetes cluster: this is no pod with a service account, and KUBECONFIG leads to none ({error})"
            ) from None
    # The client's own repetitions know neither our patience nor how often a POST may be sent.
    configuration.retries = False
    return Cluster(space or namespace(), client.ApiClient(configuration), patience=patience)


def namespace() -> str:
    """`NVEMBED_NAMESPACE`, else that of this pod (`NAMESPACE`, as Kubeflow sets it, or the service account's)."""
    for name in ("NVEMBED_NAMESPACE", "NAMESPACE"):
        if found := os.environ.get(name):
            return found
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        raise UserError("no namespace: set NVEMBED_NAMESPACE to the one in which the pipeline's pods run") from None


def passing(error: Exception) -> float | None:
    """Seconds to wait at least before trying again; None for an error that stays."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError, LocationParseError, SSLError

    if isinstance(error, ApiException):
        if error.status not in _PASSING:
            return None
        after = (error.headers or {}).get("Retry-After", "")
        return min(float(after), 60.0) if after.isdigit() else 0.0
    if isinstance(error, LocationParseError | SSLError):
        return None
    # a connection that is refused, cut or silent; an answer that ends in the middle is no JSON
    return 0.0 if isinstance(error, HTTPError | OSError | json.JSONDecodeError) else None


def status_of(error: Exception) -> int | None:
    """The HTTP status of a client's error, where it has one."""
    return getattr(error, "status", None)


def told(error: Exception) -> str:
    """What an answer says, in a line."""
    body = getattr(error, "body", None)
    try:
        said = str(json.loads(body or "")["message"])
    except (ValueError, TypeError, KeyError):
        said = str(body or error)
    status = status_of(error)
    return f"{f'{status} ' if status else ''}{' '.join(said.split())[:400]}"


def plain(error: Exception, what: str, namespace: str) -> Exception:
    """A client's error in this project's words."""
    status, said = status_of(error), told(error)
    if status == 404:
        return NotFound(f"{what}: {said}", kind_is_known=_names_an_object(error))
    if status == 409:
        return Conflict(f"{what}: {said}")
    if status == 401:
        return UserError(f"{what}: the API server does not know us ({said}); give the pod a service account's token")
    if status == 403 and "admission webhook" not in said:
        return Refused(
            f"{what}: forbidden in namespace {namespace} ({said}); give the service account that right: "
            "manifests/60-service-account.yaml has all that is needed"
        )
    if status in (400, 403, 422):
        return Refused(f"{what}: refused ({said})")
    return ClusterError(f"{what}: {said}")


def _names_an_object(error: Exception) -> bool:
    """Whether a 404 speaks of an object; for a kind that is not installed the API server answers in plain text."""
    try:
        return bool(json.loads(getattr(error, "body", "") or "").get("details", {}).get("name"))
    except (ValueError, AttributeError):
        return False
