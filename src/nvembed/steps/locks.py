"""The registry's lock where this process runs: a Lease in a cluster's pod, a file in the state folder elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from nvembed.core.progress import note


@contextmanager
def registry_lock(name: str) -> Iterator[Callable[[], None]]:
    """Hold what `name` names in the registry; see `registry.locks.Lock`.

    A pod whose service account may not use leases falls back, with a note, to a file on the state volume that all
    tasks mount.
    """
    from nvembed.cluster.lease import LeaseRefused, in_cluster, lease
    from nvembed.registry.locks import file_lock

    with ExitStack() as stack:
        held = None
        if in_cluster():
            try:
                held = stack.enter_context(lease(name))
            except LeaseRefused as error:
                note(
                    f"no lease of the registry ({error}): a file on the state volume is its lock instead; "
                    "apply manifests/60-service-account.yaml"
                )
        yield held or stack.enter_context(file_lock(name))
