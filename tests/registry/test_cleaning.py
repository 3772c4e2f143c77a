"""Old versions and deleted runs go; champions, their predecessors and their evidence stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from nvembed.registry.cleaning import expendable, remove
from nvembed.registry.versions import CHALLENGER, CHAMPION
from nvembed.tracking.client import client, experiment_id

NAME = "cleaned"


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Seven versions, each with a run and files of its own; the fifth is champion and came after the second."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    made = client()
    made.create_registered_model(NAME)
    for _ in range(7):
        run = made.create_run(experiment_id(made)).info
        model = made.create_logged_model(run.experiment_id, name="model", source_run_id=run.run_id)
        files = Path(model.artifact_location.removeprefix("file://"))
        files.mkdir(parents=True)
        (files / "model.safetensors").write_bytes(b"weights")
        made.create_model_version(NAME, f"models:/{model.model_id}", run.run_id, model_id=model.model_id)
    made.set_registered_model_alias(NAME, CHAMPION, "5")
    made.set_model_version_tag(NAME, "5", "nvembed.champion_before", "2")
    made.set_registered_model_alias(NAME, CHALLENGER, "7")
    return made


def _versions(mlflow: MlflowClient) -> dict[str, str]:
    return {str(one.version): one.run_id for one in mlflow.search_model_versions(f"name='{NAME}'")}


def _weights(tmp_path: Path) -> int:
    return len(list(tmp_path.rglob("model.safetensors")))


def test_versions_that_nothing_points_at_go_with_their_files(mlflow: MlflowClient, tmp_path: Path) -> None:
    found = expendable(keep=1)
    assert [one.version for one in found.versions] == ["4", "3", "1"]  # 6 is the newest without alias
    said = list(remove(found))

    assert said == [f"removed version {number} of {NAME}" for number in (4, 3, 1)]
    assert sorted(_versions(mlflow)) == ["2", "5", "6", "7"]
    assert _weights(tmp_path) == 4


def test_a_deleted_run_goes_for_good_unless_it_holds_a_kept_versions_evidence(
    mlflow: MlflowClient, tmp_path: Path
) -> None:
    runs = _versions(mlflow)
    loose = mlflow.create_run(experiment_id(mlflow)).info.run_id
    alive = mlflow.create_run(experiment_id(mlflow)).info.run_id
    for run in (loose, runs["5"], runs["1"]):
        mlflow.delete_run(run)
    found = expendable(keep=9)
    assert found.runs == [loose]  # the first version is kept here, and so is its run
    list(remove(found))
    left = mlflow.search_runs([experiment_id(mlflow)], run_view_type=ViewType.ALL)

    assert {runs["5"], runs["1"], alive} <= {run.info.run_id for run in left}
    assert loose not in {run.info.run_id for run in left}


def test_with_fewer_versions_than_are_kept_nothing_goes(mlflow: MlflowClient) -> None:
    found = expendable(keep=10)

    assert not found.versions
    assert not list(remove(found))
