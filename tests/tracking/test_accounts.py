"""The server's configuration with log-ins, and what its guard watches. The rest is tried on a server that runs:
tests/manifests/test_tracking_run.py."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from nvembed.core.errors import UserError
from nvembed.tracking.accounts import make_accounts, write_configuration
from nvembed.tracking.guard import _guarded


def test_the_configuration_says_the_database_back_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    file = tmp_path / "auth.ini"
    file.write_text("older and longer than what is written now" * 20)
    write_configuration(file, "postgresql://mlflow:a%25b@host/db")
    read = configparser.ConfigParser()  # with interpolation, as MLflow reads it
    read.read(file)
    assert read["mlflow"]["database_uri"] == "postgresql://mlflow:a%25b@host/db"
    assert read["mlflow"]["default_permission"] == "READ"
    module, _, name = read["mlflow"]["authorization_function"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))
    assert file.stat().st_mode & 0o777 == 0o600


def test_every_way_to_move_or_end_an_alias_is_watched() -> None:
    tails = {(path.partition("/mlflow/")[2], method) for path, method in _guarded()}
    assert tails == {
        ("registered-models/alias", "POST"),
        ("registered-models/alias", "DELETE"),
        ("registered-models/delete", "DELETE"),
        ("registered-models/rename", "POST"),
        ("model-versions/delete", "DELETE"),
    }
    assert {path.partition("/mlflow/")[0] for path, _ in _guarded()} >= {"/api/2.0", "/ajax-api/2.0"}


def test_an_account_that_nobody_knows_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(UserError, match="boss"):
        make_accounts("http://127.0.0.1:9", {"boss": "x"})


@pytest.mark.parametrize(
    ("arguments", "says"), [((), "say `prepare` or `users`"), (("users",), "PASSWORDS is not set")]
)
def test_a_wrong_call_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    command = [sys.executable, "-m", "nvembed.tracking.accounts", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, says)
