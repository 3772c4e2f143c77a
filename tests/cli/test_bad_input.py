"""Bad input at `nvembed run`: one line that says what, where and how to mend it; exit code 2; nothing left behind."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from nvembed.cli import main


@pytest.fixture(autouse=True)
def _no_server_of_this_machine(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def refused(capsys, output: Path, *arguments: str, recipe: str = "tiny") -> str:
    """Run, expect exit code 2, one line and no trace of the output folder; the line."""
    assert main(["run", "--recipe", recipe, "--output-dir", str(output), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert not output.exists()
    return line


def rows(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_misspelt_recipe_key(capsys, tmp_path):
    line = refused(capsys, tmp_path / "out", "--set", "stage1.stepps=3")
    assert "stage1.stepps" in line
    assert "'steps'" in line


def test_an_override_that_the_first_task_would_take_for_two(capsys, tmp_path):
    line = refused(capsys, tmp_path / "out", "--set", "description=one line\nand another")
    assert "line end" in line


def test_an_unknown_recipe(capsys, tmp_path):
    assert "did you mean 'laptop'?" in refused(capsys, tmp_path / "out", recipe="laptopp")


def test_a_data_file_that_does_not_exist(capsys, tmp_path):
    assert "missing.jsonl" in refused(capsys, tmp_path / "out", "--set", f"data.path={tmp_path / 'missing.jsonl'}")


def test_a_missing_column(capsys, tmp_path):
    file = rows(tmp_path / "my.jsonl", *({"query": f"q {n}", "answer": f"a {n}"} for n in range(50)))
    assert "positive" in refused(capsys, tmp_path / "out", "--set", f"data.path={file}")


def test_an_empty_file(capsys, tmp_path):
    assert "empty.jsonl" in refused(capsys, tmp_path / "out", "--set", f"data.path={rows(tmp_path / 'empty.jsonl')}")


def test_a_file_in_which_all_rows_are_the_same(capsys, tmp_path):
    file = rows(tmp_path / "same.jsonl", *[{"query": "one query", "positive": "one answer"}] * 50)
    assert "same.jsonl" in refused(capsys, tmp_path / "out", "--set", f"data.path={file}")


def test_too_many_rows_that_are_not_json(capsys, tmp_path):
    file = rows(tmp_path / "bad.jsonl", *({"query": f"query {n}", "positive": f"answer {n}"} for n in range(50)))
    with file.open("a") as stream:
        stream.write("{not json\n" * 10)
    assert "max_bad_rows" in refused(capsys, tmp_path / "out", "--set", f"data.path={file}")


def test_a_max_length_beyond_the_backbone(capsys, tmp_path):
    assert "max_length" in refused(capsys, tmp_path / "out", "--set", "model.max_length=1000000")


def test_a_gpu_recipe_without_a_gpu(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "no usable GPU" in refused(capsys, tmp_path / "out", "--set", "resources.device=cuda")


def test_an_mlflow_server_that_refuses_connections(capsys, tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert "MLFLOW_TRACKING_URI" in refused(capsys, tmp_path / "out")


def test_an_mlflow_server_that_never_answers_is_given_up_within_five_seconds(capsys, tmp_path, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        refused(capsys, tmp_path / "out")
    assert time.monotonic() - started < 5.5  # half a second of grace for a busy machine


def test_an_output_folder_below_a_file(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "--output-dir" in refused(capsys, tmp_path / "file" / "out")


def test_an_output_folder_in_a_place_that_takes_no_files(capsys):
    assert "cannot write in /proc" in refused(capsys, Path("/proc/nvembed-out"))


def test_a_recipe_file_that_is_no_recipe(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("- one\n- two\n")
    assert "mapping" in refused(capsys, tmp_path / "out", recipe=str(tmp_path / "mine.yaml"))
