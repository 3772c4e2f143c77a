"""A training stage on two nodes for real: the task, the API, and the pods' own command under torchrun's variables."""

import json
import logging
import signal
import threading
import time

import pytest
import torch
from cluster.fake_k8s import serve
from cluster.fake_trainer import Script, Trainer
from cluster.jobs import NAME, POD, RUN, furnish, kubeconfig, resources
from safetensors.torch import load_file
from training.support import make_dataset, make_examples, recipe

from nvembed import steps
from nvembed.cluster import launching
from nvembed.cluster.api import ClusterError
from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.recipe import section_json
from nvembed.training import nodes


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A pod of a pipeline run, as its process sees it; the dataset is where KFP puts it, outside the state volume."""
    make_dataset(tmp_path / "kfp" / "dataset", make_examples(24))
    with serve() as api:
        furnish(api)
        variables = {
            "NVEMBED_STATE": tmp_path / "state",
            "NVEMBED_METRICS": tmp_path / "metrics",
            "NVEMBED_NAMESPACE": "team",
            "KUBECONFIG": kubeconfig(api, tmp_path),
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KFP_RUN_ID": RUN,
            "KFP_POD_NAME": POD,
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr(launching, "Timing", lambda: launching.__dict__["_Quick"])
        monkeypatch.setitem(launching.__dict__, "_Quick", type("Quick", (), {"look": 0.2, "stuck": 5.0, "logs": 0.1}))
        yield api, tmp_path


def trainer(api, folder, *scripts):
    variables = {"NVEMBED_STATE": str(folder / "state"), "GLOO_SOCKET_IFNAME": "lo"}
    return Trainer(api, *(scripts or (Script(run=True),)), tick=0.05, environment=variables)


def train(folder, out, wanted, *overrides):
    made = recipe(*overrides)
    arguments = (section_json(made.stage1), section_json(made.model), section_json(wanted))
    steps.train("stage1", *arguments, str(folder / "kfp" / "dataset"), str(folder / out))
    return load_file(folder / out / "trainable.safetensors")


def on_two_nodes():
    return resources(threads=1)


@pytest.mark.slow
def test_two_nodes_train_what_two_ranks_of_one_node_train(place, monkeypatch, caplog):
    api, folder = place
    caplog.set_level(logging.INFO)
    with trainer(api, folder) as stand_in:
        far = train(folder, "far", on_two_nodes())
    told = [record.getMessage() for record in caplog.records if record.name == "nvembed.ranks"]
    for node in (0, 1):
        assert any(one.startswith(f"[node {node}] [rank {node}] ") for one in told), told
    steps_told = [json.loads(line)["step"] for line in (folder / "metrics").read_text().splitlines()]
    assert steps_told and max(steps_told) == recipe().stage1.steps
    state = next((folder / "state" / "training").iterdir())
    assert not (state / "inputs").exists() and not list(state.glob("attempt-*"))
    assert read_manifest(folder / "far", verify=True).extra["processes"] == 2
    assert len(stand_in.made) == 1

    monkeypatch.setenv("NVEMBED_STATE", str(folder / "other"))
    here = on_two_nodes().model_copy(update={"launcher": "pod", "nodes": 1, "processes": 2})
    near = train(folder, "near", here)
    assert near.keys() == far.keys()
    for name, tensor in near.items():
        torch.testing.assert_close(far[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_job_that_lost_a_node_goes_on_from_its_checkpoint(place, caplog):
    api, folder = place
    caplog.set_level(logging.INFO)
    more = ("stage1.steps=16", "stage1.checkpoint_steps=2")
    with trainer(api, folder) as stand_in:

        def lose_a_node():
            while not list((folder / "state" / "training").glob("*/checkpoints/step-*")):
                time.sleep(0.05)
            (job,) = stand_in._jobs.values()
            list(job.processes.values())[1].send_signal(signal.SIGKILL)

        killer = threading.Thread(target=lose_a_node, daemon=True)
        killer.start()
        with pytest.raises(ClusterError, match=r"\(node 1\) ended with exit code"):
            train(folder, "out", on_two_nodes(), *more)
        killer.join()
        train(folder, "out", on_two_nodes(), *more)
    assert len(stand_in.made) == 2
    assert "going on from the checkpoint of step" in caplog.text
    assert api.find("trainjobs", NAME)["status"]["conditions"][-1]["type"] == "Complete"
    assert read_manifest(folder / "out", verify=True).counts["steps"] == 16


@pytest.mark.slow
def test_what_a_node_cannot_do_is_told_by_the_task(place):
    api, folder = place
    with trainer(api, folder), pytest.raises(UserError, match="no usable GPU"):
        train(folder, "out", resources(device="cuda", processes=1, accelerators=1, threads=1))
    assert not (folder / "out").exists()


def test_a_node_without_the_volume_says_so(tmp_path):
    with pytest.raises(UserError, match="ReadWriteMany"):
        nodes.train_node(tmp_path / "attempt-1.json")


def test_several_nodes_in_one_pod_are_refused(place):
    _, folder = place
    with pytest.raises(UserError, match=r"resources\.launcher=trainjob"):
        train(folder, "out", resources(launcher="pod"))
