"""`nvembed compile --recipe`: the compiled pipeline with a recipe of its own, and nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nvembed.cli import main
from nvembed.cluster.spec import Compiled, pipeline_file, read_pipeline
from nvembed.cluster.variant import misfits
from nvembed.recipe import Resources

PODS = ("platforms", "kubernetes", "deploymentSpec", "executors")


def changes(before: Any, after: Any, *path: str) -> dict[tuple[str, ...], Any]:
    """Where two trees differ, with what stands there afterwards."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = before.keys() | after.keys()
        pairs = [(key, before.get(key), after.get(key)) for key in keys]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(str(number), *pair) for number, pair in enumerate(zip(before, after, strict=True))]
    else:
        same = type(before) is type(after) and before == after
        return {} if same else {path: after}
    return {place: value for key, *pair in pairs for place, value in changes(*pair, *path, key).items()}


@pytest.fixture
def variant(tmp_path):
    """Compile a variant; where it differs from the pipeline that ships."""

    def made(*arguments: str) -> tuple[dict[tuple[str, ...], Any], Compiled]:
        out = tmp_path / "variant.yaml"
        assert main(["compile", "-o", str(out), *arguments]) == 0
        shipped, compiled = read_pipeline(pipeline_file()), read_pipeline(out)
        return {
            **changes(shipped.spec, compiled.spec),
            **changes(shipped.platform, compiled.platform),
        }, compiled

    return made


def test_the_recipe_is_the_default_and_everything_else_is_as_it_ships(variant):
    differs, _ = variant("--recipe", "tiny", "--set", "stage1.steps=3", "--image", "here/nvembed@sha256:1")
    parameters = ("root", "inputDefinitions", "parameters")
    assert differs == {
        (*parameters, "recipe", "defaultValue"): "tiny",
        (*parameters, "overrides", "defaultValue"): "stage1.steps=3",
        (*parameters, "image", "defaultValue"): "here/nvembed@sha256:1",
    }


def test_what_is_fixed_when_compiled_follows_the_recipe(variant):
    settings = ["resources.compiled.shm=64Gi", "resources.compiled.retries=5", "resources.compiled.train_hours=500"]
    differs, compiled = variant("--recipe", "tiny", *(word for one in settings for word in ("--set", one)))
    ends = {path[-1] for path in differs}
    assert ends == {"defaultValue", "sizeLimit", "maxRetryCount", "activeDeadlineSeconds"}
    trains = {path: value for path, value in differs.items() if path[-1] == "activeDeadlineSeconds"}
    assert trains == {(*PODS, name, "activeDeadlineSeconds"): "1800000" for name in ("exec-train", "exec-train-2")}
    mounts = [mount for pod in compiled.pods.values() for mount in pod.get("emptyDirMounts", [])]
    assert mounts and {mount["sizeLimit"] for mount in mounts} == {"64Gi"}
    assert {task["retryPolicy"]["maxRetryCount"] for task in compiled.tasks if "retryPolicy" in task} == {5}
    wanted = Resources.model_validate({"compiled": {"shm": "64Gi", "retries": 5, "train_hours": 500}})
    assert misfits(compiled, wanted) == []


def test_the_pipeline_that_ships_is_what_recipes_say_by_default():
    assert misfits(read_pipeline(pipeline_file()), Resources()) == []


def test_the_same_recipe_gives_the_same_bytes_and_a_file_travels_as_text(variant, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: tiny\nname: mine\n")
    variant("--recipe", str(mine))
    first = (tmp_path / "variant.yaml").read_bytes()
    _, compiled = variant("--recipe", str(mine))
    assert (tmp_path / "variant.yaml").read_bytes() == first
    assert compiled.default("recipe") == "extends: tiny\nname: mine\n"


def test_a_variant_is_submitted_and_one_that_does_not_fit_is_said(kubeflow, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("KFP_TOKEN", raising=False)
    out, change = str(tmp_path / "variant.yaml"), ("--set", "resources.compiled.shm=64Gi")
    assert main(["compile", "--recipe", "tiny", *change, "-o", out]) == 0
    assert main(["submit", "--recipe", "tiny", *change, "--pipeline", out, "--endpoint", kubeflow.url]) == 0
    assert capsys.readouterr().err == ""
    pods = kubeflow.submitted()["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]
    assert pods["executors"]["exec-train"]["emptyDirMounts"][0]["sizeLimit"] == "64Gi"

    assert main(["submit", "--recipe", "tiny", *change, "--endpoint", kubeflow.url, "--dry-run"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("resources.compiled.shm is 64Gi, but the compiled pipeline has 16Gi")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe", "tiny"], "--output"),
        (["--set", "stage1.steps=3"], "--recipe"),
        (["--recipe", "tiny", "-p", "state_clam=x", "-o", "{here}/out.yaml"], "state_claim"),
        (["--recipe", "tiny", "--set", "data.path={here}/my.jsonl", "-o", "{here}/out.yaml"], "data.path"),
        (["--recipe", "tiny", "--set", "data.path=my.jsonl", "-o", "{here}/out.yaml"], "relative path"),
        (["--recipe", "tiny", "--set", "model.backbone={here}", "-o", "{here}/out.yaml"], "model.backbone"),
        (["--recipe", "tiny", "--set", "resources.compiled.retries=-1", "-o", "{here}/out.yaml"], "retries"),
        (["--recipe", "tiny", "-o", "{here}/none/out.yaml"], "no such folder"),
    ],
)
def test_what_makes_no_variant_is_one_line_and_nothing_is_written(tmp_path, capsys, arguments, said):
    (tmp_path / "my.jsonl").write_text("{}\n")
    assert main(["compile", *(one.format(here=tmp_path) for one in arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "out.yaml").exists()


@pytest.mark.parametrize("text", ["a: [", "a: 1", "a: 1\n---\nb: 2\n", ""])
def test_a_file_that_is_no_pipeline_is_refused(kubeflow, tmp_path, capsys, text):
    Path(tmp_path / "mine.yaml").write_text(text)
    command = ["submit", "--recipe", "tiny", "--endpoint", kubeflow.url, "--pipeline", str(tmp_path / "mine.yaml")]
    assert main(command) == 2
    assert "is no pipeline that `nvembed compile` wrote" in capsys.readouterr().err
    assert kubeflow.requests == []
