"""finalize_run, run by KFP's local runner as the exit handler of a pipeline."""

import shutil
from pathlib import Path

import mlflow
import pytest
from kfp import dsl, local
from pipeline_harness import environment

from components.finalize_run.component import finalize_run
from components.resolve_recipe.component import resolve_recipe


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def work(fail: bool):
    if fail:
        raise SystemExit("planned")


@pytest.mark.parametrize(("fail", "status"), [(False, "FINISHED"), (True, "FAILED")])
def test_closes_the_parent_run_as_the_pipeline_ended(
    tmp_path: Path, empty_database: Path, fail: bool, status: str
) -> None:
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "runs"), raise_on_error=False)

    @dsl.pipeline(name="closing")
    def pipeline(fail: bool) -> None:
        with dsl.ExitHandler(finalize_run()):
            first = resolve_recipe(recipe="tiny")
            work(fail=fail).after(first)

    uri = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}"
    with environment(MLFLOW_TRACKING_URI=uri, NVEMBED_RUN_ID=f"run-{fail}"):
        pipeline(fail=fail)

    runs = mlflow.MlflowClient(uri).search_runs(["1"], filter_string=f"tags.`kfp.pipeline_run_id` = 'run-{fail}'")
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == status
