"""What makes a TrainJob impossible is told in one line, before anything is made where that can be known."""

import pytest
from cluster.fake_trainer import Script, Trainer
from cluster.jobs import NAME, furnish, launch, resources, until

from nvembed.core.errors import UserError


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (("create", "trainjobs"), "may not create trainjobs.trainer.kubeflow.org"),
        (("get", "pods/log"), "may not get pods/log"),
        (("list", "events"), "may not list events"),
    ],
)
def test_a_missing_right_is_named(api, deed, right, said):
    api.denied = {right}
    with pytest.raises(UserError, match=said):
        launch(api, deed)
    assert api.all("trainjobs") == []


def test_a_right_that_goes_while_it_runs_is_named_by_the_answer(api, deed):
    api.faults = lambda method, path, _: api.denied.add(("create", "trainjobs")) if "clustertraining" in path else None
    with pytest.raises(UserError, match=r'cannot create resource "trainjobs".*60-service-account'):
        launch(api, deed)


@pytest.mark.parametrize(
    ("spoil", "changes", "said"),
    [
        (lambda api: api.absent.update(["trainjobs", "clustertrainingruntimes"]), {}, "install Kubeflow Trainer"),
        (lambda api: api.remove("clustertrainingruntimes", "torch-distributed"), {}, "there is no ClusterTraining"),
        (lambda api: api.absent.add("localqueues"), {"trainjob": {"queue": "gpus"}}, "install Kueue"),
        (lambda api: None, {"trainjob": {"queue": "elsewhere"}}, "no LocalQueue elsewhere in namespace team"),
        (lambda api: furnish(api, modes=("ReadWriteOnce",)), {}, "claim nvembed-state is ReadWriteOnce"),
        (lambda api: api.remove("persistentvolumeclaims", "nvembed-state"), {}, "no volume claim nvembed-state"),
        (
            lambda api: furnish(api, gpus=8),
            {"device": "cuda", "processes": 16, "accelerators": 16},
            "no node has more than 8 nvidia.com/gpu",
        ),
    ],
    ids=["no-trainer", "no-runtime", "no-kueue", "no-queue", "not-rwx", "no-claim", "too-many-gpus"],
)
def test_what_is_missing_is_said_before_anything_is_made(api, deed, spoil, changes, said):
    spoil(api)
    with pytest.raises(UserError, match=said):
        launch(api, deed, **changes)
    assert api.all("trainjobs") == [] and deed.attempts == []


def test_a_runtime_that_may_not_be_looked_at_is_told_of_by_trainer(api, deed):
    api.remove("clustertrainingruntimes", "torch-distributed")
    api.denied = {("get", "clustertrainingruntimes")}
    with pytest.raises(UserError, match="clusterTrainingRuntime must be created before"):
        launch(api, deed)


def test_a_trainer_that_would_drop_the_volumes_without_a_word_is_told_to_be_too_old(api, deed):
    api.unknown = {"runtimePatches"}
    with pytest.raises(UserError, match=r'unknown field "spec\.runtimePatches".*this Trainer is too old'):
        launch(api, deed)
    assert api.all("trainjobs") == []


def test_a_runtime_for_mpi_is_refused(api, deed):
    api.change("clustertrainingruntimes", "torch-distributed", lambda one: one["spec"].update(mlPolicy={"mpi": {}}))
    with pytest.raises(UserError, match=r"no mlPolicy\.torch"):
        launch(api, deed)


@pytest.mark.parametrize(
    ("why", "said"),
    [("image", "its image cannot be pulled .*registry.example/nvembed"), ("multi-attach", "ReadWriteMany")],
)
def test_pods_that_can_never_start_end_the_job_with_the_reason(api, deed, why, said):
    with Trainer(api, Script(pending=10**6, why_pending=why)):
        with pytest.raises(UserError, match=said):
            launch(api, deed)
        until(lambda: api.find("trainjobs", NAME) is None)


def test_too_many_gpus_are_told_from_the_scheduler_where_nodes_may_not_be_listed(api, deed):
    api.denied = {("list", "nodes")}
    wanted = {"device": "cuda", "processes": 16, "accelerators": 16, "trainjob": {"start_minutes": 0.005}}
    with Trainer(api, Script(pending=10**6)):
        with pytest.raises(UserError, match=r"3 Insufficient nvidia.com/gpu.*lower accelerators"):
            launch(api, deed, **wanted)
        until(lambda: api.find("trainjobs", NAME) is None)


def test_outside_a_pipelines_pod_there_is_no_trainjob(monkeypatch, deed):
    from nvembed.cluster.launching import on_nodes

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UserError, match="nvembed submit"):
        on_nodes(resources(), deed)
