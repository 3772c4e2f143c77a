"""Values of secrets, planted where a cluster or a user would have them, and looked for in all that is made and said."""

from __future__ import annotations

import json
import logging

import pytest
from cluster.fake_trainer import Script, Trainer
from cluster.jobs import POD, launch
from conftest import PLANTED, nvembed, planted_in

from nvembed.cli import main
from nvembed.cluster import pipeline_file
from nvembed.cluster.api import ClusterError


@pytest.fixture(autouse=True)
def _planted(monkeypatch, caplog):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    for name in ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT", "KFP_EXISTING_TOKEN", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.DEBUG)


def plant_in_the_pod(api):
    """The pod of the task holds the values themselves, as a careless user's would."""

    def change(pod):
        main_ = next(one for one in pod["spec"]["containers"] if one["name"] == "main")
        main_["env"] = [*main_["env"], *({"name": name, "value": value} for name, value in PLANTED.items())]

    api.change("pods", POD, change)


def test_looking_would_find_them(tmp_path):
    (tmp_path / "file").write_text(f"password={PLANTED['MLFLOW_TRACKING_PASSWORD']}")
    assert len(planted_in(PLANTED["HF_TOKEN"], "nothing", folders=(tmp_path,))) == 2


def test_no_spec_and_no_line_of_submitting_holds_one(kubeflow, capsys, caplog, tmp_path):
    # in a process of its own: KFP looks through all modules that are loaded, and a test's are many
    compiled = nvembed("compile", "--output", str(tmp_path / "nvembed.yaml"), cwd=tmp_path)
    assert compiled.returncode == 0
    assert (tmp_path / "nvembed.yaml").read_bytes() == pipeline_file().read_bytes()
    kubeflow.token = PLANTED["KFP_TOKEN"]
    submit = ["--verbose", "submit", "--recipe", "tiny"]
    assert main([*submit, "--dry-run"]) == 0
    assert main([*submit, "--endpoint", kubeflow.url, "--wait", "--poll", "0.05"]) == 0
    kubeflow.token = "another"
    assert main([*submit, "--endpoint", kubeflow.url]) == 2
    kubeflow.token, kubeflow.states = PLANTED["KFP_TOKEN"], ["FAILED"]
    assert main([*submit, "--endpoint", kubeflow.url, "--wait", "--poll", "0.05"]) == 1
    said = capsys.readouterr()
    assert len(kubeflow.runs) == 2 and "refuses us (401)" in said.err
    sent = json.dumps([kubeflow.runs, kubeflow.experiments, kubeflow.requests], default=str)
    spoken = (compiled.stdout, compiled.stderr, said.out, said.err, caplog.text)
    assert planted_in(*spoken, sent, folders=(tmp_path,)) == []


def test_no_trainjob_no_log_and_no_failure_holds_one(api, deed, caplog, capsys):
    plant_in_the_pod(api)
    with Trainer(api, Script(end="fail")), pytest.raises(ClusterError) as told:
        launch(api, deed)
    (job,) = api.all("trainjobs")
    assert {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} <= {one["name"] for one in job["spec"]["trainer"]["env"]}
    said = capsys.readouterr()
    made = [json.dumps(job), str(told.value), caplog.text, said.out, said.err, *map(str, api.requests)]
    assert planted_in(*made, folders=(deed.folder,)) == []
