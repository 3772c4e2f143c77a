"""TrainJobs in a namespace: get, make, delete, wait until they are gone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from nvembed.cluster.api import Cluster, NotFound, Refused
from nvembed.cluster.support import TRAINER
from nvembed.cluster.trainjob import GROUP, PLURAL, VERSION
from nvembed.core.errors import UserError

KIND = (GROUP, VERSION, PLURAL)


def get_job(cluster: Cluster, name: str) -> dict[str, Any]:
    """A TrainJob's tree. Raises NotFound."""
    return cluster.get(*KIND, name)


def create_job(cluster: Cluster, job: Mapping[str, Any]) -> dict[str, Any]:
    """Make a job; as the API server keeps it. Raises Conflict if its name is taken, NotFound without the kind.

    Strictly: else a field that an older Trainer does not know, the volumes with it, would be dropped without a word.
    """
    make = cluster.custom.create_namespaced_custom_object
    what = f"create TrainJob {job['metadata']['name']}"
    place = (GROUP, VERSION, cluster.namespace, PLURAL)
    try:
        return dict(cluster.call(what, make, *place, job, field_validation="Strict"))
    except Refused as error:
        if "unknown field" not in str(error):
            raise
        raise UserError(f"{error}; this Trainer is too old: install {TRAINER.least} or newer") from None


def delete_job(cluster: Cluster, name: str, uid: str) -> None:
    """Delete this very job and, before it is gone, its pods. Raises NotFound, or Conflict if it is another one."""
    from kubernetes import client

    options = client.V1DeleteOptions(propagation_policy="Foreground", preconditions=client.V1Preconditions(uid=uid))
    cluster.call(
        f"delete TrainJob {name}",
        cluster.custom.delete_namespaced_custom_object,
        GROUP,
        VERSION,
        cluster.namespace,
        PLURAL,
        name,
        body=options,
    )


def wait_until_gone(cluster: Cluster, name: str, uid: str, pause: float) -> None:
    """Until this very job is gone, and its pods with it: they may still write a checkpoint."""
    while True:
        try:
            if get_job(cluster, name)["metadata"]["uid"] != uid:
                return
        except NotFound:
            return
        time.sleep(pause)


def let_go(job: Mapping[str, Any]) -> float:
    """When a job was let go, in seconds since 1970; Trainer reckons its deadline from the same moment."""
    resumed = [
        one["lastTransitionTime"]
        for one in job.get("status", {}).get("conditions", [])
        if one["type"] == "Suspended" and one["status"] == "False"
    ]
    return datetime.fromisoformat((resumed or [job["metadata"]["creationTimestamp"]])[0]).timestamp()
