"""`nvembed doctor`: what is wrong is named with its mend, what need not be there is no fault."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from nvembed.cli import main
from nvembed.cli.doctor import local_findings


def _told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    code = main(["doctor", "--json", *arguments])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, {line["check"]: line for line in lines}


def test_a_machine_on_which_the_tests_run_is_well(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    (tmp_path / "store").mkdir()
    code, found = _told(capsys, "--store", f"file://{tmp_path}/store")

    assert code == 0
    assert f"torch {metadata.version('torch')}" in found["packages"]["says"]
    assert found["object store"]["state"] == "ok"
    assert not list((tmp_path / "store").iterdir())
    assert not (tmp_path / "state").exists()


def test_a_store_and_a_server_that_are_not_there_are_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:pass-word@127.0.0.1:9")
    code = main(["doctor", "--store", f"file://{tmp_path}/nowhere"])
    told = capsys.readouterr()

    assert code == 1
    assert "2 wrong: MLflow, object store" in told.err
    assert "start the server or mend the address" in told.out
    assert "pass-word" not in told.out + told.err


def test_a_package_that_does_not_fit_is_named_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.1" if name == "peft" else real(name))
    found = {finding.check: finding for finding in local_findings()}

    assert found["packages"].state == "wrong"
    assert "peft 0.1 (needs <0.22,>=0.21)" in found["packages"].says
    assert "constraints.txt" in found["packages"].mend


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> None:
        raise RuntimeError("no such thing here")

    monkeypatch.setattr("nvembed.cli.doctor.shutil.disk_usage", broken)
    found = {finding.check: finding for finding in local_findings()}

    assert (found["disk"].state, "no such thing here" in found["disk"].says) == ("wrong", True)
    assert found["MLflow"].state in ("absent", "ok")
