"""What is wrong with a cluster, at the commands themselves: one line that says how to mend it, and exit code 2."""

from __future__ import annotations

import re

import pytest
from cluster.fake_trainer import Script, Trainer
from cluster.jobs import POD, RUN, furnish, kubeconfig
from training.support import make_dataset, make_examples

from nvembed.cli import main
from nvembed.cluster import api as patient
from nvembed.cluster import launching

ON_NODES = ["launcher=trainjob", "nodes=2", "device=cpu", 'cpu="1"', "memory=1Gi", "threads=1"]


@pytest.fixture
def pod(api, tmp_path, monkeypatch):
    """The environment of a task's pod."""
    variables = {
        "NVEMBED_STATE": tmp_path / "state",
        "KUBECONFIG": kubeconfig(api, tmp_path),
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KFP_RUN_ID": RUN,
        "KFP_POD_NAME": POD,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("NVEMBED_NAMESPACE", "team")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    quick = type("Quick", (), {"look": 0.05, "stuck": 0.2, "logs": 0.02})
    monkeypatch.setattr(launching, "Timing", quick)
    make_dataset(tmp_path / "dataset", make_examples(12))
    return api


@pytest.fixture
def train(tmp_path, capsys):
    """`nvembed train` as the pipeline's task calls it: exit code and error lines; nothing may be left of a result."""

    def run(*changes: str) -> tuple[int, list[str]]:
        sets = [word for one in (*ON_NODES, *changes) for word in ("--set", f"resources.{one}")]
        places = ["--dataset", str(tmp_path / "dataset"), "--out", str(tmp_path / "out")]
        code = main(["train", "--recipe", "tiny", *places, *sets])
        assert not (tmp_path / "out").exists()
        return code, [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error", "Trace"))]

    return run


@pytest.mark.parametrize(
    ("spoil", "changes", "said"),
    [
        (lambda api: setattr(api, "faults", lambda *_: "401"), [], "the API server does not know us .*token"),
        (
            lambda api: api.denied.update([("create", "trainjobs"), ("get", "pods/log")]),
            [],
            r"namespace team: the service account may not create trainjobs\.trainer\.kubeflow\.org, get pods/log; "
            r"bind the Role of manifests/60-service-account\.yaml",
        ),
        (
            lambda api: api.absent.update(["trainjobs", "clustertrainingruntimes"]),
            [],
            "no trainer.kubeflow.org/v1alpha1: install Kubeflow Trainer 2.2 or newer",
        ),
        (
            lambda api: api.remove("clustertrainingruntimes", "torch-distributed"),
            [],
            "there is no ClusterTrainingRuntime torch-distributed; install it",
        ),
        (
            lambda api: api.absent.add("localqueues"),
            ["trainjob.queue=gpus"],
            "no kueue.x-k8s.io/v1beta2: install Kueue 0.17 or newer, or leave queue out",
        ),
        (lambda api: None, ["trainjob.queue=other"], "there is no LocalQueue other in namespace team; make it"),
        (
            lambda api: furnish(api, modes=("ReadWriteOnce",)),
            [],
            "volume claim nvembed-state is ReadWriteOnce.*needs ReadWriteMany",
        ),
        (
            lambda api: furnish(api, gpus=8),
            ["device=cuda", "processes=1", "accelerators=16"],
            "resources.accelerators is 16, but no node has more than 8 nvidia.com/gpu; lower accelerators",
        ),
    ],
    ids=["expired", "rights", "no-trainer", "no-runtime", "no-kueue", "no-queue", "not-rwx", "too-many-gpus"],
)
def test_training_on_nodes_that_cannot_be_is_one_line(pod, train, spoil, changes, said):
    spoil(pod)
    code, lines = train(*changes)
    assert code == 2
    assert len(lines) == 1 and re.search(said, lines[0]), lines
    assert pod.all("trainjobs") == []


def test_an_image_that_cannot_be_pulled_ends_the_job_with_one_line(pod, train):
    with Trainer(pod, Script(pending=10**6, why_pending="image")):
        code, lines = train()
    assert code == 2
    assert len(lines) == 1 and "its image cannot be pulled" in lines[0] and "parameter image" in lines[0], lines


def test_training_that_fails_while_it_runs_is_no_fault_of_the_input(pod, train):
    with Trainer(pod, Script(end="fail")):
        code, lines = train()
    assert code == 1
    assert any("TrainJob" in line and "failed" in line for line in lines), lines


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [("401", 2, "the API server does not know us"), ("503", 1, "no answer for 0 s")],
)
def test_a_reaper_that_is_refused_or_gets_no_answer_says_so(pod, capsys, monkeypatch, fault, code, said):
    pod.faults = lambda *_: fault
    made = patient.connect
    monkeypatch.setattr(patient, "connect", lambda *a, **o: made(*a, **{**o, "patience": 0.1}))
    assert main(["reap"]) == code
    (line,) = capsys.readouterr().err.splitlines()[:1]
    assert said in line


ASKING = [["status"], ["logs", "first"], ["cancel", "first"]]


@pytest.mark.parametrize("command", [["submit", "--recipe", "tiny"], *ASKING])
def test_a_pipelines_server_that_refuses_an_old_token_is_one_line(kubeflow, capsys, monkeypatch, command):
    kubeflow.token = "new"
    monkeypatch.setenv("KFP_TOKEN", "expired")
    assert main([*command, "--endpoint", kubeflow.url]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "401" in lines[0] and "KFP_TOKEN" in lines[0], lines
    assert kubeflow.runs == {}


@pytest.mark.parametrize("command", ASKING)
def test_a_pipelines_server_that_cannot_be_reached_is_one_line(capsys, command):
    assert main([*command, "--endpoint", "http://127.0.0.1:9"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "cannot be reached" in lines[0], lines
