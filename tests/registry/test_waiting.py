"""An account that may set no alias, on MLflow with log-ins as overlay production starts it (on SQLite, files here)."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import planted_in
from manifest_files import built, named, pod_of
from mlflow_service import Server, World, free_port
from registry_race import bring_one, enter_challengers, judge, version_of
from registry_support import GATE, MODEL, Contest

from nvembed import registry
from nvembed.cli import main
from nvembed.cli.local_runner import Result
from nvembed.cli.summary import show_summary
from nvembed.core.errors import UserError
from nvembed.recipe import section_json
from nvembed.registry.promotion import promote, rollback
from nvembed.registry.records import read_records
from nvembed.registry.versions import Version, aliased
from nvembed.registry.waiting import due
from nvembed.steps import register_model
from nvembed.tracking.accounts import make_accounts
from nvembed.tracking.client import client, prepare_mlflow

PASSWORDS = {name: f"password-of-{name}-1" for name in ("pipeline", "promoter", "serving")}
ADMIN = "password-of-admin-1"


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server. Its accounts are there."""
    folder, port = tmp_path_factory.mktemp("production"), free_port()
    (folder / "auth").mkdir()
    secrets = {
        "mlflow-database": {"uri": f"sqlite:///{folder}/mlflow.db"},
        "mlflow-server": {"admin-password": ADMIN, "flask-key": "k" * 40},
    }
    configs = {"mlflow-artifacts": {"MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts")}}
    here = {"=0.0.0.0": "=127.0.0.1", "=5000": f"={port}", "--workers=2": "--workers=1"}
    world = World({"/auth": folder / "auth", **here}, secrets, configs)
    pod = pod_of(named(built("production"), "Deployment", "mlflow"))
    assert pod is not None
    (prepare,), (serve,) = pod["spec"]["initContainers"], pod["spec"]["containers"]
    done = world.run(prepare, folder)
    assert done.returncode == 0, done.stderr
    server = Server(serve, world, folder, port)
    server.start()
    prepare_mlflow()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN)
        make_accounts(f"http://localhost:{port}", PASSWORDS)
    yield server
    server.kill()


def be(name: str) -> None:
    """Speak to MLflow as this account from now on."""
    os.environ |= {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": PASSWORDS[name]}


@pytest.fixture
def pipeline(production: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """We are the account `pipeline`; what a test registers is gone after it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://localhost:{production.port}")
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    be("pipeline")
    yield
    be("promoter")
    for model in client().search_registered_models():
        client().delete_registered_model(model.name)


@pytest.fixture
def field(pipeline: None, tmp_path: Path) -> Path:
    """Three challengers with gains of 0.1, 0.2 and 0.15, registered by the pipeline; there is no champion."""
    enter_challengers(tmp_path / "field", [0.1, 0.2, 0.15])
    return tmp_path / "field"


def champion() -> Version | None:
    return aliased(GATE.name, "champion")


def promoter(*words: str) -> int:
    """Run `nvembed …` as the promoter."""
    be("promoter")
    code = main(list(words))
    be("pipeline")
    return code


def test_the_task_succeeds_the_verdict_stays_and_a_promoters_command_makes_it_champion(
    pipeline: None,
    production: Server,
    adapters: Callable[[int], Path],
    contest: Callable[..., Contest],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    judged = contest(adapters(1), gain=0.1)
    results = [str(folder) for folder in judged.results]
    sections = section_json(GATE), section_json(MODEL)
    file = tmp_path / "registered.json"
    register_model(*sections, str(adapters(1)), str(judged.folder), results, {}, str(file))
    outcome = json.loads(file.read_text())
    command = f"MLFLOW_TRACKING_USERNAME=promoter nvembed registry promote {GATE.name} 1"
    assert outcome["version"] == "1" and outcome["aliases"] == [] and not outcome["promoted"]
    assert outcome["due"] == "champion" and outcome["promote"] == command
    (version,) = registry.list_versions(GATE.name)
    assert version.tags["nvembed.due"] == f"champion: {command}"
    (verdict,) = read_records(version)
    assert (verdict.what, verdict.who, verdict.against) == ("passed", "pipeline", "untrained")
    assert not [name for name in version.tags if name.startswith("nvembed.champion_")]
    run = client().get_run(version.run)
    assert {item.path for item in client().list_artifacts(run.info.run_id)} >= {"comparison", "evaluations"}

    show_summary(Result("SUCCEEDED", "", {"register_model": {"registered": str(file)}}), tmp_path, "http://mlflow")
    assert f"due          champion, by a promoter: {command}" in capsys.readouterr().out
    assert main(["registry", "list"]) == 0
    said = capsys.readouterr().out
    assert f"version 1 waits for a promoter: {command}" in said and "champion is due" in said
    register_model(*sections, str(adapters(1)), str(judged.folder), results, {}, str(file))  # tried again
    assert len(read_records(registry.list_versions(GATE.name)[0])) == 1

    assert promoter("registry", "promote", GATE.name, "1") == 0
    present = champion()
    assert present is not None and present.version == "1" and due(present) == ""
    passed, promoted = read_records(present)
    assert (promoted.what, promoted.who, promoted.why) == ("promoted", "promoter", passed.why)
    assert (promoted.against, promoted.evaluation) == (passed.against, passed.evaluation)
    register_model(*sections, str(adapters(1)), str(judged.folder), results, {}, str(file))
    again = json.loads(file.read_text())
    assert again["aliases"] == ["champion"] and "due" not in again
    capsys.readouterr()
    assert main(["registry", "list"]) == 0
    assert "waits" not in capsys.readouterr().out
    # no password in a tag, a parameter, an artifact, the server's log or ours
    assert planted_in(caplog.text, folders=(production.folder, tmp_path), values=PASSWORDS.values()) == []


def test_of_two_that_wait_the_second_is_held_to_the_gate(field: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bring_one(field, 2, judge(field, 2)).due == "champion"
    assert bring_one(field, 3, judge(field, 3)).due == "champion"
    assert promoter("registry", "promote", GATE.name, "2") == 0
    capsys.readouterr()
    assert main(["registry", "list", GATE.name]) == 0
    assert "no longer holds: it passed against the untrained backbone, and version 2 is" in capsys.readouterr().out
    assert promoter("registry", "promote", GATE.name, "3") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "version 2 is champion now; submit its run again" in line
    present = champion()
    assert present is not None and present.version == "2"

    decision = bring_one(field, 3, judge(field, 3))  # its run again: judged anew, against the champion of now
    assert not decision.promoted and decision.due == "challenger" and "not above the required gain" in decision.reason
    assert [one.what for one in read_records(version_of(3))] == ["passed", "refused", "refused"]
    assert promoter("registry", "promote", GATE.name, "3", "--why", "it is smaller") == 0
    assert read_records(version_of(3))[-1].why == "it is smaller"


def test_one_that_is_not_better_waits_for_the_challengers_alias_alone(field: Path) -> None:
    assert bring_one(field, 2, judge(field, 2)).due == "champion"
    assert promoter("registry", "promote", GATE.name, "2") == 0
    for number in (1, 3):
        assert bring_one(field, number, judge(field, number, against=2)).due == "challenger"
    assert [due(version_of(number)) for number in (1, 2, 3)] == ["", "", "challenger"]
    assert promoter("registry", "promote", "--challenger", GATE.name, "3") == 0
    assert version_of(3).aliases == ("challenger",) and due(version_of(3)) == ""
    present = champion()
    assert present is not None and present.version == "2"


def test_who_is_no_promoter_is_told_so_and_leaves_no_trace(field: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring_one(field, 2, judge(field, 2))
    bring_one(field, 1, judge(field, 1))
    assert promoter("registry", "promote", GATE.name, "1") == 0
    assert promoter("registry", "promote", GATE.name, "2", "--why", "it is better") == 0
    before = [version_of(number) for number in (1, 2, 3)]
    calls = (lambda: promote(GATE.name, 3), lambda: promote(GATE.name, 1, "again"), lambda: rollback(GATE.name))
    for call in calls:
        with pytest.raises(UserError, match=r"pipeline may not decide.*MLFLOW_TRACKING_USERNAME=promoter nvembed reg"):
            call()
    capsys.readouterr()
    assert main(["registry", "promote", "--challenger", GATE.name, "3"]) == 2
    assert "pipeline may not decide who is challenger" in capsys.readouterr().err
    assert [version_of(number) for number in (1, 2, 3)] == before
