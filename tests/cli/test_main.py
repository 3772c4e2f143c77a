"""The command line itself: quick help, one line for a mistake, exit codes 0, 1 and 2."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nvembed import __version__
from nvembed.cli import app, main

NVEMBED = Path(sys.executable).with_name("nvembed")


def errors(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_help_lists_every_command_and_imports_none_of_them():
    started = time.monotonic()
    done = subprocess.run([str(NVEMBED), "--help"], capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 3  # under a second where nothing else runs
    for name in app.COMMANDS:
        assert f"  {name}" in done.stdout
    heavy = "import sys; from nvembed.cli import main; main(['--help']); print([m for m in HEAVY if m in sys.modules])"
    names = "HEAVY = ['torch', 'transformers', 'mlflow', 'kfp', 'pydantic', 'rich']"
    done = subprocess.run([sys.executable, "-c", f"{names}; {heavy}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_every_command_explains_itself_with_the_line_the_help_shows(name, capsys):
    assert main([name, "--help"]) == 0
    assert app.COMMANDS[name][2].split(":")[-1].strip()[1:-1] in capsys.readouterr().out


def test_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_an_unknown_command_is_exit_2(capsys):
    assert main(["rum"]) == 2
    assert "rum" in capsys.readouterr().err


def test_an_unforeseen_error_is_exit_1_in_one_line_with_a_log_that_holds_the_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setitem(app.COMMANDS, "ui", ("nvembed.cli.no_such_module", "ui", ""))
    assert main(["ui"]) == 1
    (line,) = errors(capsys)
    (log,) = tmp_path.glob("nvembed-*.log")
    assert line.endswith(f"(log: {log})")
    assert "Traceback" in log.read_text()


def test_recipe_list_names_the_presets(capsys):
    assert main(["recipe", "list"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= {"laptop", "laptop-llm", "tiny"}


def test_a_shown_recipe_is_a_recipe_again(capsys, tmp_path):
    assert main(["recipe", "show", "tiny", "--set", "stage1.steps=7"]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["stage1"]["steps"] == 7
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["recipe", "validate", str(tmp_path / "mine.yaml")]) == 0
    assert main(["recipe", "show", str(tmp_path / "mine.yaml")]) == 0
    assert text in capsys.readouterr().out


def test_validate_names_the_nearest_known_key(capsys):
    assert main(["recipe", "validate", "tiny", "--set", "stage1.learning_rat=1"]) == 2
    (line,) = errors(capsys)
    assert "did you mean 'learning_rate'?" in line
