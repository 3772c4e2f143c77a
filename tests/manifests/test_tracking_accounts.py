"""Who may do what at MLflow as `production` runs it, and under which names it answers there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from mlflow_service import status
from tracked_service import ADMIN, BUCKET, PASSWORDS, SEARCH, Tracked, basic, container, login, production, s3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    before = dict(os.environ)
    with production(tmp_path_factory.mktemp("production")) as found:
        yield found
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("host", ["mlflow", "mlflow.nvembed:5000", "mlflow.nvembed.svc.cluster.local:5000"])
def test_it_answers_under_its_service_name(tracked: Tracked, host: str) -> None:
    assert status(tracked.server.port, SEARCH, host, basic(tracked.user)) == 200


@pytest.mark.parametrize("host", ["mlflow.evil.com", "mlflow.nvembed.evil.com", "10.1.2.3:5000"])
def test_a_strange_host_name_is_refused(tracked: Tracked, host: str) -> None:
    assert status(tracked.server.port, SEARCH, host, basic(tracked.user)) == 403


def refused(call: Any, *arguments: Any, **options: Any) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as caught:
        call(*arguments, **options)
    assert caught.value.error_code == "PERMISSION_DENIED"


def registered(tracked: Tracked, name: str) -> str:
    mlflow = tracked.ask(login("pipeline"))
    run = mlflow.create_run(mlflow.create_experiment(name))
    mlflow.create_registered_model(name)
    source = f"{run.info.artifact_uri}/model"
    return mlflow.create_model_version(name, source, run.info.run_id).version


def test_nobody_gets_in_without_a_log_in(tracked: Tracked) -> None:
    assert status(tracked.server.port, SEARCH, "mlflow") == 401
    assert status(tracked.server.port, SEARCH, "mlflow", basic(login("pipeline", "wrong-password-1"))) == 401
    assert status(tracked.server.port, "/health", "10.1.2.3:5000") == 200


def test_the_pipeline_registers_and_only_a_promoter_sets_aliases(tracked: Tracked) -> None:
    number = registered(tracked, "one")
    mlflow = tracked.ask(login("pipeline"))
    refused(mlflow.set_registered_model_alias, "one", "champion", number)
    tracked.ask(login("promoter")).set_registered_model_alias("one", "champion", number)
    mlflow = tracked.ask(login("pipeline"))
    mlflow.set_model_version_tag("one", number, "nvembed.note", "the pipeline's own")
    refused(mlflow.delete_registered_model_alias, "one", "champion")
    refused(mlflow.rename_registered_model, "one", "other")
    refused(mlflow.delete_registered_model, "one")
    refused(mlflow.delete_model_version, "one", number)
    assert mlflow.get_model_version_by_alias("one", "champion").version == number


def test_the_pipeline_may_clear_away_versions_without_alias(tracked: Tracked) -> None:
    number = registered(tracked, "two")
    tracked.ask(login("pipeline")).delete_model_version("two", number)


def test_serving_reads_and_no_more(tracked: Tracked) -> None:
    number = registered(tracked, "three")
    mlflow = tracked.ask(login("serving"))
    version = mlflow.get_model_version("three", number)
    assert mlflow.get_run(version.run_id).info.run_id == version.run_id
    refused(mlflow.log_metric, version.run_id, "loss", 1.0)
    refused(mlflow.set_registered_model_alias, "three", "champion", number)
    refused(mlflow.set_model_version_tag, "three", number, "note", "no")


def test_a_new_password_in_the_secret_is_a_new_password(tracked: Tracked) -> None:
    file = tracked.server.folder / "passwords" / "serving"
    file.write_text("serving-password-2")
    try:
        done = tracked.world.run(container("production", "CronJob", "mlflow-accounts"), tracked.server.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not [one for one in [*PASSWORDS.values(), ADMIN] if one in done.stdout + done.stderr]
        assert status(tracked.server.port, SEARCH, "mlflow", basic(login("serving", "serving-password-2"))) == 200
    finally:
        file.write_text(PASSWORDS["serving"])
        tracked.world.run(container("production", "CronJob", "mlflow-accounts"), tracked.server.folder)


def test_what_was_deleted_goes_after_its_days_but_not_what_a_version_rests_on(tracked: Tracked) -> None:
    mlflow = tracked.ask(login("pipeline"))
    experiment, runs = mlflow.create_experiment("bin"), {}
    for name in ("alive", "deleted", "evidence"):
        runs[name] = mlflow.create_run(experiment).info.run_id
        mlflow.log_text(runs[name], "scores", "evaluations/scores.txt")
    mlflow.create_registered_model("bin")
    mlflow.create_model_version("bin", f"runs:/{runs['evidence']}/model", runs["evidence"])
    for name in ("deleted", "evidence"):
        mlflow.delete_run(runs[name])

    def stored() -> set[str]:
        keys = [one["Key"] for one in s3(str(tracked.s3)).list_objects_v2(Bucket=BUCKET)["Contents"]]
        return {name for name, run in runs.items() if any(run in key for key in keys)}

    box = container("production", "CronJob", "mlflow-gc")
    for days, left in (("30", {"alive", "deleted", "evidence"}), ("0", {"alive", "evidence"})):
        done = tracked.world.run({**box, "args": [days]}, tracked.server.folder)
        assert done.returncode == 0, done.stderr
        assert stored() == left
