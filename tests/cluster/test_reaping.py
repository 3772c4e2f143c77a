"""The reaper: what it removes, and all that it must leave alone."""

from datetime import UTC, datetime, timedelta

import pytest
from cluster.fake_k8s import serve
from cluster.jobs import cluster, furnish, kubeconfig, workflow
from conftest import nvembed

from nvembed.cluster import reaping
from nvembed.cluster.api import ClusterError
from nvembed.cluster.reaping import reap
from nvembed.core.errors import UserError


@pytest.fixture
def api():
    with serve() as served:
        furnish(served)
        yield served


def put_job(api, name, run_id, *, owner=None, managed_by="nvembed", minutes_old=60):
    """A TrainJob that runs; `owner`: the workflow that made it."""
    made = (datetime.now(UTC) - timedelta(minutes=minutes_old)).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata = {"name": name, "creationTimestamp": made, "labels": {"app.kubernetes.io/managed-by": managed_by}}
    if run_id:
        metadata["labels"]["pipeline/runid"] = run_id
    if owner:
        reference = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
        metadata["ownerReferences"] = [
            {**reference, "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
        ]
    return api.put("trainjobs", {"metadata": metadata, "spec": {}})


def put_run(api, run_id, phase="Running"):
    tree = workflow(phase, f"wf-{run_id}", run_id)
    if phase != "Running":
        tree["status"]["finishedAt"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return api.put("workflows", tree)


def jobs(api):
    return sorted(job["metadata"]["name"] for job in api.all("trainjobs"))


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Error"])
def test_jobs_of_ended_runs_go_and_nothing_else(api, phase):
    put_job(api, "gone", "r1", owner=put_run(api, "r1", phase))
    put_job(api, "runs", "r2", owner=put_run(api, "r2"))
    put_job(api, "waits", "r3", owner=put_run(api, "r3", "Pending"))
    put_job(api, "new", "r4", owner=api.put("workflows", {**workflow("", "wf-r4", "r4"), "status": {}}))
    put_job(api, "others", "r1", managed_by="somebody")
    put_job(api, "no-run", None)
    put_job(api, "by-hand", "r5")
    done = reap(cluster(api))
    assert done.removed == {"gone": "r1"}
    assert jobs(api) == ["by-hand", "new", "no-run", "others", "runs", "waits"]


def test_a_run_that_was_tried_again_keeps_its_job(api):
    first = put_run(api, "r1", "Failed")
    put_job(api, "taken-up", "r1", owner=first)
    api.put("workflows", workflow("Running", "wf-again", "r1"))
    assert reap(cluster(api)).removed == {} and jobs(api) == ["taken-up"]


def test_a_job_whose_workflow_is_gone_goes_unless_it_is_young(api):
    owner = put_run(api, "r1")
    put_job(api, "old", "r1", owner=owner, minutes_old=60)
    put_job(api, "young", "r1", owner=owner, minutes_old=1)
    api.remove("workflows", "wf-r1")
    assert reap(cluster(api)).removed == {"old": "r1"} and jobs(api) == ["young"]


def test_a_workflow_of_the_same_name_is_another_one(api):
    owner = put_run(api, "r1")
    put_job(api, "old", "r1", owner=owner)
    api.remove("workflows", "wf-r1")
    api.put("workflows", workflow("Running", "wf-r1", "another"))
    assert reap(cluster(api)).removed == {"old": "r1"}


def test_a_job_that_was_made_anew_in_between_stays(api):
    put_job(api, "job", "r1", owner=put_run(api, "r1", "Failed"))

    def replace(method, *_):
        if method == "DELETE" and len(api.requests) < 10:
            api.remove("trainjobs", "job")
            put_job(api, "job", "r1")

    api.faults = replace
    assert reap(cluster(api)).removed == {} and jobs(api) == ["job"]


def test_a_dry_run_removes_nothing(api):
    put_job(api, "gone", "r1", owner=put_run(api, "r1", "Failed"))
    assert reap(cluster(api), dry_run=True).removed == {"gone": "r1"} and jobs(api) == ["gone"]


def test_mlflow_runs_of_ended_runs_are_closed_as_killed(api, monkeypatch):
    told = []
    monkeypatch.setattr(reaping, "tracking_uri", lambda: "http://mlflow")
    monkeypatch.setattr(reaping, "close_parent", lambda run_id, status: told.append((run_id, status)))
    put_job(api, "gone", "r1", owner=put_run(api, "r1", "Failed"))
    put_run(api, "r2", "Failed")  # it had no job, or MLflow was away when that was removed
    put_run(api, "r3")
    done = reap(cluster(api))
    assert told == [("r1", "KILLED"), ("r2", "KILLED")] and done.closed == ["r1", "r2"]


def test_an_mlflow_that_is_away_keeps_no_job(api, monkeypatch):
    def away(*_):
        raise OSError("no route")

    monkeypatch.setattr(reaping, "tracking_uri", lambda: "http://mlflow")
    monkeypatch.setattr(reaping, "close_parent", away)
    put_job(api, "gone", "r1", owner=put_run(api, "r1", "Failed"))
    done = reap(cluster(api))
    assert done.removed == {"gone": "r1"} and done.unclosed == {"r1": "OSError: no route"} and jobs(api) == []


def test_workflows_that_cannot_be_listed_remove_nothing(api):
    put_job(api, "gone", "r1", owner=put_run(api, "r1", "Failed"))
    api.faults = lambda method, path, _: "503" if path.endswith("workflows") else None
    with pytest.raises(ClusterError):
        reap(cluster(api, patience=0.1))
    api.faults = lambda *_: None
    api.absent = {"workflows"}
    with pytest.raises(UserError, match=r"no workflows\.argoproj\.io"):
        reap(cluster(api))
    assert jobs(api) == ["gone"]


def test_the_command_says_what_it_did_and_names_a_missing_right(api, tmp_path):
    put_job(api, "gone", "r1", owner=put_run(api, "r1", "Failed"))
    put_job(api, "runs", "r2", owner=put_run(api, "r2"))
    where = {"KUBECONFIG": str(kubeconfig(api, tmp_path)), "NVEMBED_NAMESPACE": "team"}
    api.denied = {("delete", "trainjobs")}
    refused = nvembed("reap", cwd=tmp_path, **where)
    assert refused.returncode == 2 and "may not delete trainjobs.trainer.kubeflow.org" in refused.stderr
    api.denied = set()
    done = nvembed("reap", cwd=tmp_path, **where)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "removed gone of run r1\n1 removed, 1 kept\n" and jobs(api) == ["runs"]


def test_an_open_mlflow_run_is_killed_for_real(api, store, monkeypatch):
    from nvembed.tracking import open_parent
    from nvembed.tracking.client import client

    open_runs = {run_id: open_parent(run_id, {"name": "tiny"}) for run_id in ("r1", "r2")}
    put_job(api, "gone", "r1", owner=put_run(api, "r1", "Failed"))
    put_job(api, "runs", "r2", owner=put_run(api, "r2"))
    assert reap(cluster(api)).unclosed == {}
    status = {run_id: client().get_run(mlflow_id).info.status for run_id, mlflow_id in open_runs.items()}
    assert status == {"r1": "KILLED", "r2": "RUNNING"}
