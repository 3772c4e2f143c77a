"""`nvembed status`, `logs` and `cancel` against a local server that speaks the API."""

from __future__ import annotations

import pytest

from nvembed.cli import main


@pytest.fixture
def run(kubeflow, capsys, monkeypatch) -> str:
    """A run that was submitted; its id."""
    monkeypatch.delenv("KFP_TOKEN", raising=False)
    monkeypatch.setenv("KFP_ENDPOINT", kubeflow.url)
    assert main(["submit", "--recipe", "tiny", "--name", "first"]) == 0
    capsys.readouterr()
    return next(iter(kubeflow.runs))


def test_status_lists_runs_and_shows_the_tasks_of_one_in_their_order(run, capsys):
    assert main(["status"]) == 0
    assert run in capsys.readouterr().out
    for name in ("latest", "first", run, run[:8]):
        assert main(["status", name]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("first: ")
        assert [line.split()[0] for line in lines[1:]] == ["prepare-data", "train-2"]


def test_status_can_wait_and_its_exit_code_is_the_runs(run, kubeflow, capsys):
    kubeflow.states = ["RUNNING", "FAILED"]
    assert main(["status", "first", "--wait", "--poll", "0.01"]) == 1
    assert "ended as FAILED: train-2" in capsys.readouterr().err


def test_logs_are_those_of_the_task_that_was_named_or_of_what_runs_and_failed(run, kubeflow, capsys):
    kubeflow.logs = {"train-2-pod": "step 1\nstep 2\n", "prepare-pod": "240 rows\n"}
    assert main(["logs", "first"]) == 0
    assert capsys.readouterr().out == "== train-2 (train-2-pod)\nstep 1\nstep 2\n"
    assert main(["logs", "first", "prepare_data"]) == 0
    assert "240 rows" in capsys.readouterr().out


def test_a_log_that_is_gone_and_a_task_that_is_not_there_are_told_in_one_line(run, capsys):
    assert main(["logs", "first"]) == 2
    assert "has no log of train-2-pod" in capsys.readouterr().err
    assert main(["logs", "first", "mine"]) == 2
    assert "tasks with a log: prepare-data, train-2" in capsys.readouterr().err


def test_cancel_ends_a_run_once(run, kubeflow, capsys):
    assert main(["cancel", "first"]) == 0
    assert kubeflow.terminated == [run]
    kubeflow.states = ["CANCELED"]
    assert main(["cancel", "first"]) == 2
    assert "has ended already, as CANCELED" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_told_with_those_that_are(run, capsys):
    assert main(["status", "second"]) == 2
    assert "there are first" in capsys.readouterr().err
