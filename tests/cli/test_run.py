"""A run is KFP's own local runner, watched: its tasks are drawn, its failures are told apart, it never outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nvembed.cli.app import Failure
from nvembed.cli.run import execute
from nvembed.cli.screen import PlainScreen
from nvembed.cli.summary import show_summary
from nvembed.core.errors import UserError


def run_small(pipeline: Path, output: Path, mode: str = "ok", recipe: str = "laptop"):
    parameters = {"recipe": recipe, "overrides": mode, "image": "local/python@sha256:0", "not_a_parameter": 1}
    return execute(pipeline, parameters, output, "sqlite:///mlflow.db", PlainScreen())


def test_each_task_is_told_by_the_name_it_gives_itself_and_its_notes_are_shown(small_pipeline, tmp_path, capsys):
    result = run_small(small_pipeline, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    done = [line.split(":")[0] for line in lines if ": done in " in line]
    assert sorted(done) == [
        "compare_models",
        "evaluate_base",
        "evaluate_stage2",
        "finalize_run",
        "prepare_data",
        "register_model",
        "train_stage1",
        "train_stage2",
    ]
    assert "prepare_data: note: held out 6 texts" in lines
    assert result.succeeded


def test_a_second_run_shows_as_cached_what_kfp_served_from_its_cache(small_pipeline, tmp_path, capsys):
    first = run_small(small_pipeline, tmp_path)
    capsys.readouterr()
    second = run_small(small_pipeline, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    cached = {line.split(":")[0] for line in lines if line.endswith(": cached")}
    assert cached == {"prepare_data", "train_stage1", "train_stage2", "evaluate_base", "evaluate_stage2"}
    assert first.outputs["train_stage2"] == second.outputs["train_stage2"]
    assert first.outputs["compare_models"]["comparison"] != second.outputs["compare_models"]["comparison"]


def test_a_changed_parameter_runs_again_only_what_depends_on_it(small_pipeline, tmp_path, capsys):
    run_small(small_pipeline, tmp_path)
    capsys.readouterr()
    run_small(small_pipeline, tmp_path, mode="ok too")
    lines = capsys.readouterr().out.splitlines()
    assert {"prepare_data: cached", "train_stage1: cached"} <= set(lines)
    assert not {"train_stage2: cached", "evaluate_stage2: cached"} & set(lines)


def test_the_summary_shows_the_table_and_the_registered_model(small_pipeline, tmp_path, capsys):
    show_summary(run_small(small_pipeline, tmp_path), tmp_path, "sqlite:///mlflow.db")
    out = capsys.readouterr().out
    assert "| base |" in out
    assert "| stage2 |" in out
    assert "small version 3 (champion)" in out
    assert f"nvembed ui --output-dir {tmp_path}" in out


def test_what_tasks_print_goes_to_the_log_and_not_to_the_screen(small_pipeline, tmp_path, capsys):
    run_small(small_pipeline, tmp_path)
    assert "training stage1" not in capsys.readouterr().out
    (log,) = (tmp_path / "logs").glob("*.log")
    assert "training stage1" in log.read_text()


def test_a_task_that_refuses_its_input_is_the_users_error_in_one_line(small_pipeline, tmp_path):
    with pytest.raises(UserError, match=r"^train_stage2: learning_rate: too high; lower it$"):
        run_small(small_pipeline, tmp_path, mode="user")


def test_a_task_that_fails_otherwise_is_named_with_its_message_and_the_log(small_pipeline, tmp_path, capsys):
    with pytest.raises(Failure, match="train_stage2 failed: ValueError: no such tensor") as caught:
        run_small(small_pipeline, tmp_path, mode="crash")
    assert caught.value.log is not None
    assert "no such tensor" in caught.value.log.read_text()
    assert capsys.readouterr().err.splitlines()[-1].strip() == "ValueError: no such tensor"


def test_a_task_that_ends_without_a_word_is_named(small_pipeline, tmp_path):
    with pytest.raises(Failure, match="train_stage2 failed: it ended without a word"):
        run_small(small_pipeline, tmp_path, mode="silent")


def test_the_exit_handler_runs_after_a_failure(small_pipeline, tmp_path, capsys):
    with pytest.raises(Failure):
        run_small(small_pipeline, tmp_path, mode="crash")
    assert "finalize_run: done" in capsys.readouterr().out


DRIVER = """
    import sys
    from pathlib import Path
    from nvembed.cli import app
    from nvembed.cli.run import execute
    from nvembed.cli.screen import PlainScreen
    import click

    @app.cli.command("small")
    def small():
        execute(Path(sys.argv[1]), {"overrides": "sleep"}, Path(sys.argv[2]), "sqlite:///m.db", PlainScreen())

    app.COMMANDS["small"] = ("__main__", "small", "")
    sys.exit(app.main(["small"]))
"""


@pytest.fixture
def long_run(small_pipeline, tmp_path):
    """A process that runs a pipeline whose stage 2 writes for a minute; it is writing now."""
    driver = tmp_path / "driver.py"
    driver.write_text(textwrap.dedent(DRIVER))
    command = [sys.executable, str(driver), str(small_pipeline), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: list((tmp_path / "state").glob("beat-*")), 60)
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(condition, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.1)


def writes(folder: Path) -> bool:
    """True if a task writes its beat within a second."""
    (beat,) = (folder / "state").glob("beat-*")
    before = beat.read_text()
    time.sleep(1.0)
    return beat.read_text() != before


def test_a_killed_run_takes_its_tasks_with_it_and_another_can_start_at_once(long_run, small_pipeline, tmp_path, capsys):
    assert writes(tmp_path)
    long_run.send_signal(signal.SIGKILL)
    long_run.wait()
    assert run_small(small_pipeline, tmp_path).succeeded
    assert not writes(tmp_path)
    assert "train_stage1: cached" in capsys.readouterr().out.splitlines()


def test_a_second_run_beside_a_living_one_is_refused_and_names_it(long_run, small_pipeline, tmp_path):
    with pytest.raises(UserError, match=rf"another run works here \(process {long_run.pid}\)"):
        run_small(small_pipeline, tmp_path)
    assert writes(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_its_tasks_first_and_exits_with_130(long_run, tmp_path, number):
    os.kill(long_run.pid, number)
    _, said = long_run.communicate(timeout=20)
    assert long_run.returncode == 130
    assert said.strip() == "interrupted; run the same command again to go on from the last checkpoint"
    assert not writes(tmp_path)
