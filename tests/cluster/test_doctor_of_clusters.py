"""`nvembed doctor --cluster`: what runs there against the support table, what is missing with its mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster.jobs import furnish, kubeconfig
from manifest_files import NEWEST

from nvembed.cli import main
from nvembed.cluster import support
from nvembed.cluster.spec import pipeline_file, read_pipeline

ROOT = Path(__file__).resolve().parents[2]
TRAINER = {"trainjobs", "clustertrainingruntimes", "trainingruntimes"}


def deployment(name: str, image: str) -> dict:
    return {"metadata": {"name": name}, "spec": {"template": {"spec": {"containers": [{"image": image}]}}}}


@pytest.fixture
def place(api, kubeflow, tmp_path, monkeypatch):
    """A cluster on which everything is there, and this machine's own findings left out."""
    furnish(api, gpus=8)
    compiled = read_pipeline(pipeline_file())
    settings = dict.fromkeys(compiled.settings(), "/state")
    for name in (compiled.default(one) for one in compiled.parameters if one.endswith("_claim")):
        api.put("persistentvolumeclaims", {"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteMany"]}})
    api.put("configmaps", {"metadata": {"name": "nvembed"}, "data": settings})
    public = {"metadata": {"name": "kubeflow-trainer-public"}, "data": {"kubeflow_trainer_version": "v2.3.0"}}
    api.put("configmaps", public, "kubeflow-system")
    jobset = deployment("jobset-controller-manager", "registry.k8s.io/jobset/jobset:v0.12.0")
    api.put("deployments", jobset, "kubeflow-system")
    kueue = deployment("kueue-controller-manager", "registry.k8s.io/kueue/kueue:v0.19.2")
    api.put("deployments", kueue, "kueue-system")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(api, tmp_path)))
    monkeypatch.setenv("KFP_ENDPOINT", kubeflow.url)
    for name in ("KFP_TOKEN", "KFP_EXISTING_TOKEN", "KUBERNETES_SERVICE_HOST", "NVEMBED_NAMESPACE", "NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("nvembed.cli.commands_doctor.local_findings", lambda store: iter(()))
    return api, kubeflow


@pytest.fixture
def found(place, capsys):
    """Run the command; exit code, and finding by name."""

    def ask(*more: str) -> tuple[int, dict[str, dict[str, str]]]:
        code = main(["doctor", "--cluster", "--namespace", "team", "--json", *more])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return code, {line["check"]: line for line in lines}

    return ask


def test_a_cluster_with_everything_is_well(found):
    code, told = found()
    assert code == 0
    assert {one["state"] for one in told.values()} == {"ok"}, told
    compiled = read_pipeline(pipeline_file())
    claims = [one for one in compiled.parameters if one.endswith("_claim")]
    assert {name: one["says"] for name, one in told.items() if name not in ("rights", "rights, looking")} == {
        **{f"{one.removesuffix('_claim')} claim": f"{compiled.default(one)}, ReadWriteMany" for one in claims},
        "Pipelines": "2.17.0; one user: its pods start in Kubeflow's own namespace",
        "Kubernetes": "1.36.1",
        "Trainer": "2.3.0, serves trainer.kubeflow.org/v1alpha1",
        "JobSet": "0.12.0, serves jobset.x-k8s.io/v1alpha2",
        "Kueue": "0.19.2, serves kueue.x-k8s.io/v1beta2",
        "runtime": "torch-distributed, which recipes name unless they say otherwise",
        "settings": "config map nvembed",
        "GPU nodes": "1 of 1 nodes have nvidia.com/gpu, the largest 8",
    }


def test_what_only_some_recipes_need_may_be_absent(place, found):
    place[0].absent |= {*TRAINER, "jobsets", "localqueues"}
    code, told = found()
    assert code == 0
    assert {told[name]["state"] for name in ("Trainer", "JobSet", "Kueue")} == {"absent"}
    assert "only resources.launcher: trainjob needs it" in told["Trainer"]["says"]
    assert "runtime" not in told and "rights, looking" not in told


@pytest.mark.parametrize(
    ("age", "check", "said"),
    [
        (lambda api, kfp: setattr(kfp, "version", "2.5.0"), "Pipelines", "2.5.0 is too old"),
        (lambda api, kfp: setattr(api, "git_version", "v1.29.4-gke.1"), "Kubernetes", "1.29.4-gke.1 is too old"),
        (
            lambda api, kfp: api.change(
                *("configmaps", "kubeflow-trainer-public"),
                lambda one: one["data"].update(kubeflow_trainer_version="v2.1.0"),
                "kubeflow-system",
            ),
            *("Trainer", "2.1.0 is too old"),
        ),
        (
            lambda api, kfp: api.put(
                "deployments", deployment("kueue-controller-manager", "reg:5000/kueue:v0.16.1"), "kueue-system"
            ),
            *("Kueue", "0.16.1 is too old"),
        ),
        (
            lambda api, kfp: (api.absent.add("localqueues"), api.also.add(("kueue.x-k8s.io", "v1beta1"))),
            *("Kueue", "serves kueue.x-k8s.io in v1beta1, not in v1beta2"),
        ),
        (lambda api, kfp: api.absent.add("jobsets"), "JobSet", "Trainer is there without it"),
    ],
    ids=["kfp", "kubernetes", "trainer", "kueue", "kueue-api", "no-jobset"],
)
def test_what_is_too_old_is_wrong_and_how_to_mend_it(place, found, age, check, said):
    age(*place)
    code, told = found()
    assert code == 1
    assert [name for name, one in told.items() if one["state"] == "wrong"] == [check]
    assert told[check]["says"].startswith(said) and told[check]["mend"]


def test_a_newer_version_and_one_that_cannot_be_seen_are_no_fault(place, found):
    api, kubeflow = place
    kubeflow.version, kubeflow.multi_user = "3.0.1", True
    api.remove("configmaps", "kubeflow-trainer-public", "kubeflow-system")
    api.denied |= {("get", "deployments")}
    code, told = found()
    assert code == 0
    assert "3.0.1 is newer than 2.17" in told["Pipelines"]["says"] and "several users" in told["Pipelines"]["says"]
    assert (told["Trainer"]["state"], told["Kueue"]["state"]) == ("warning", "ok")
    assert "its version may not be looked at, 2.2 or newer is needed" in told["Trainer"]["says"]


def test_a_missing_right_is_named_with_verb_resource_namespace_and_the_manifest_that_gives_it(place, found):
    place[0].denied |= {("delete", "trainjobs"), ("get", "pods/log"), ("list", "nodes")}
    code, told = found()
    assert code == 1
    assert told["rights"]["state"] == "wrong"
    assert told["rights"]["says"] == (
        "in namespace team we may not delete trainjobs.trainer.kubeflow.org, get pods/log"
    )
    assert "Role nvembed of manifests/60-service-account.yaml" in told["rights"]["mend"]
    assert told["rights, looking"]["state"] == "warning"
    assert "list nodes" in told["rights, looking"]["says"] and "ClusterRole" in told["rights, looking"]["mend"]
    assert told["GPU nodes"]["state"] == "absent"


@pytest.mark.parametrize(
    ("spoil", "check", "state", "said"),
    [
        (
            lambda api: api.remove("persistentvolumeclaims", "nvembed-state"),
            *("state claim", "wrong", "namespace team has no claim nvembed-state"),
        ),
        (
            lambda api: furnish(api, modes=("ReadWriteOnce",)),
            *("state claim", "warning", "nvembed-state is ReadWriteOnce"),
        ),
        (lambda api: api.denied.add(("get", "persistentvolumeclaims")), "state claim", "warning", "may not be looked"),
        (lambda api: api.remove("configmaps", "nvembed"), "settings", "wrong", "no config map nvembed"),
        (
            lambda api: api.change("configmaps", "nvembed", lambda one: one["data"].pop("NVEMBED_STATE")),
            *("settings", "wrong", "lacks NVEMBED_STATE"),
        ),
        (
            lambda api: api.remove("clustertrainingruntimes", "torch-distributed"),
            *("runtime", "wrong", "there is no ClusterTrainingRuntime torch-distributed"),
        ),
        (lambda api: furnish(api, gpus=0), "GPU nodes", "absent", "none of 1 nodes has nvidia.com/gpu now"),
    ],
    ids=["no-claim", "rwo", "claims-hidden", "no-settings", "half-settings", "no-runtime", "no-gpu"],
)
def test_what_tasks_need_is_looked_for(place, found, spoil, check, state, said):
    spoil(place[0])
    code, told = found()
    assert code == (1 if state == "wrong" else 0)
    assert told[check]["state"] == state and said in told[check]["says"]
    assert told[check]["mend"] or state == "absent" or check == "runtime"


def test_no_cluster_at_all_is_one_line_with_its_mend(place, found, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KFP_ENDPOINT")
    code, told = found()
    assert code == 1
    assert {name: one["state"] for name, one in told.items()} == {"Pipelines": "absent", "Kubernetes": "wrong"}
    assert "no Kubernetes cluster" in told["Kubernetes"]["says"] and "KUBECONFIG" in told["Kubernetes"]["mend"]


def test_a_token_that_has_expired_is_told_of_both_servers(place, found):
    api, kubeflow = place
    kubeflow.token = "another"
    api.faults = lambda *_: "401"
    code, told = found()
    assert code == 1
    assert "refuses us (401)" in told["Pipelines"]["says"] and "KFP_TOKEN" in told["Pipelines"]["says"]
    assert "the API server does not know us" in told["Kubernetes"]["says"]


def test_where_to_look_without_cluster_is_refused(capsys):
    assert main(["doctor", "--namespace", "team"]) == 2
    assert "give --cluster too" in capsys.readouterr().err


def test_the_readmes_table_is_the_one_that_is_held_against():
    assert support.table() in (ROOT / "README.md").read_text(encoding="utf-8"), support.table()


def test_the_newest_versions_are_those_that_were_looked_at():
    """The manifests' schemas, the client and the stand-in for Trainer's API are of these versions."""
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert support.version_of(NEWEST[-1]) == support.version_of(support.KUBERNETES.newest)
    assert support.version_of(pins["kfp"]) == support.version_of(support.PIPELINES.newest)
    crds = (ROOT / "tests" / "data" / "crds" / "README.md").read_text(encoding="utf-8")
    assert f"Kubeflow Trainer {support.TRAINER.newest}.0's TrainJob" in crds
    assert f"(behind v{support.KUEUE.newest})" in crds


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("v1.36.1+k3s1", (1, 36)),
        ("2.17.0", (2, 17)),
        ("reg.example:5000/kueue:v0.19.2", (0, 19)),
        ("2.3", (2, 3)),
        ("v2.3.0-rc.1", (2, 3)),
        ("unknown", None),
        ("reg.example/nvembed@sha256:0123456789abcdef", None),
    ],
)
def test_versions_are_read_as_components_write_them(text, pair):
    assert support.version_of(text) == pair
