"""A lock that pods on different nodes share: a Lease of Kubernetes (coordination.k8s.io/v1).

Whoever holds it renews it; a holder that died stops, and is believed dead once the lease has not changed for its whole
duration by the waiting one's own clock, so clocks that differ do no harm. Every write names the version it read, so of
two who want a free lease one gets it.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nvembed.core.digests import digest_text

logger = logging.getLogger(__name__)
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DURATION = 30  # seconds
_TRUSTED = 0.8  # of the duration: after that without a renewal, someone else may be about to take it
_POLL = 1.0


class LeaseRefused(RuntimeError):
    """This pod's service account may not use leases, or there is no API server to ask."""


def in_cluster() -> bool:
    """Whether this process runs in a pod that may speak to its cluster."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and _NAMESPACE.is_file()


@contextmanager
def lease(
    name: str, *, duration: int = DURATION, poll: float = _POLL, api: Any = None, namespace: str | None = None
) -> Iterator[Callable[[], None]]:
    """Hold the lease for what `name` names; wait while another holds it.

    Args:
        name: any text. duration: seconds without a renewal after which a holder is believed dead.
        poll: seconds between two looks. api: a `CoordinationV1Api` (default: this pod's cluster). namespace: default:
            this pod's own.

    Yields:
        A function that raises RuntimeError if the lease was lost meanwhile: call it just before what must not happen
        twice.

    Raises:
        LeaseRefused: no right to it.
    """
    held = _Lease(
        api if api is not None else _api(),
        namespace or _NAMESPACE.read_text(encoding="utf-8").strip(),
        f"nvembed-{digest_text(name)[:20]}",
        duration,
        note=name,
    )
    held.acquire(poll)
    try:
        yield held.check
    finally:
        held.release()


class _Lease:
    def __init__(self, api: Any, namespace: str, name: str, duration: int, note: str) -> None:
        self._api, self._namespace, self._name, self._duration, self._note = api, namespace, name, duration, note
        self._me = f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
        self._renewed, self._lost = 0.0, False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="nvembed-lease", daemon=True)
        self._version, self._acquired, self._transitions = "", "", 0

    def acquire(self, poll: float) -> None:
        """Wait until it is ours."""
        seen, since, said = "", time.monotonic(), False
        while True:
            there = self._read()
            if there is None:
                if self._write(create=True):
                    break
            else:
                if there.metadata.resource_version != seen:
                    seen, since = there.metadata.resource_version, time.monotonic()
                holder = there.spec.holder_identity
                silent = time.monotonic() - since > (there.spec.lease_duration_seconds or self._duration)
                if not holder or silent:
                    self._version, self._transitions = seen, (there.spec.lease_transitions or 0) + 1
                    if self._write():
                        break
                elif not said:
                    logger.info("waiting for %s, which holds the lease of %s", holder, self._note)
                    said = True
            time.sleep(poll * (0.5 + random.random()))
        self._thread.start()

    def check(self) -> None:
        """Raise RuntimeError if it is no longer surely ours."""
        if self._lost or time.monotonic() - self._renewed > _TRUSTED * self._duration:
            raise RuntimeError(f"the lease of {self._note} was lost; start again")

    def release(self) -> None:
        """Let the next one in at once; if that fails, it lapses by itself."""
        self._stop.set()
        self._thread.join()
        if self._lost:
            return
        try:
            self._write(holder="")
        except Exception as error:  # noqa: BLE001 - what was to be done is done
            logger.warning("the lease of %s was not given back (%s); it lapses", self._note, type(error).__name__)

    def _renew(self) -> None:
        while not self._stop.wait(self._duration / 4):
            try:
                if not self._write():
                    self._lost = True
                    return
            except Exception as error:  # noqa: BLE001 - a server that is away for a moment; `check` counts the seconds
                logger.warning("the lease of %s was not renewed: %s", self._note, type(error).__name__)

    def _read(self) -> Any:
        from kubernetes.client import ApiException

        try:
            return self._api.read_namespaced_lease(self._name, self._namespace, _request_timeout=10)
        except ApiException as error:
            if error.status == 404:
                return None
            raise self._plain(error) from error

    def _write(self, *, create: bool = False, holder: str | None = None) -> bool:
        """Write it as ours (or as nobody's); False if someone else wrote in between."""
        from kubernetes.client import ApiException

        began = time.monotonic()
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # the API wants all six digits
        spec: dict[str, Any] = {
            "holderIdentity": self._me if holder is None else holder,
            "leaseDurationSeconds": self._duration,
            "renewTime": moment,
            "acquireTime": self._acquired or moment,
            "leaseTransitions": self._transitions,
        }
        about = {"app.kubernetes.io/part-of": "nvembed"}
        metadata: dict[str, Any] = {"name": self._name, "labels": about, "annotations": {"nvembed/of": self._note}}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        try:
            if create:
                made = self._api.create_namespaced_lease(self._namespace, body, _request_timeout=10)
            else:
                metadata["resourceVersion"] = self._version
                made = self._api.replace_namespaced_lease(self._name, self._namespace, body, _request_timeout=10)
        except ApiException as error:
            if error.status in (404, 409):
                return False
            raise self._plain(error) from error
        self._version, self._renewed, self._acquired = made.metadata.resource_version, began, spec["acquireTime"]
        return True

    def _plain(self, error: Any) -> Exception:
        if error.status in (401, 403):
            return LeaseRefused(f"leases in namespace {self._namespace} ({error.status} {error.reason})")
        return RuntimeError(f"the cluster's API failed over a lease ({error.status} {error.reason})")


def _api() -> Any:
    from kubernetes import client, config

    try:
        config.load_incluster_config()
    except config.ConfigException as error:
        raise LeaseRefused(f"no access to the cluster's API ({error})") from error
    return client.CoordinationV1Api()
