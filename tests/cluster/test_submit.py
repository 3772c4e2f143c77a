"""The compiled file reaches a server unchanged, by KFP's own command line and by ours; the exit code is the run's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nvembed.cli import main
from nvembed.cluster import pipeline_file
from nvembed.cluster.uploads import upload
from nvembed.core.digests import digest_file

KFP = Path(sys.executable).with_name("kfp")


def compiled() -> dict:
    """The compiled file as the server should get it."""
    documents = list(yaml.safe_load_all(pipeline_file().read_text()))
    return documents[0] if len(documents) == 1 else {"pipeline_spec": documents[0], "platform_spec": documents[1]}


def kfp(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KFP_", "KF_"))}
    return subprocess.run(
        [str(KFP), *arguments],
        env={**kept, "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch):
    for name in ("KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT", "KFP_TOKEN", "KFP_EXISTING_TOKEN", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def submit(*arguments: str) -> int:
    return main(["submit", *arguments])


def test_kfp_run_submit_uploads_the_compiled_file_as_it_is(kubeflow, tmp_path):
    command = [
        "--endpoint",
        kubeflow.url,
        "run",
        "submit",
        "-e",
        "nvembed",
        "-f",
        str(pipeline_file()),
        "recipe=laptop",
    ]
    done = kfp(*command, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert kubeflow.submitted()["pipeline_spec"] == compiled()
    assert kubeflow.submitted()["runtime_config"]["parameters"] == {"recipe": "laptop"}


def test_a_bare_kfp_run_submit_works_with_the_environment_the_readme_gives(kubeflow, tmp_path):
    done = kfp(
        "run",
        "submit",
        home=tmp_path,
        KFP_ENDPOINT=kubeflow.url,
        KFP_RUN_CREATE_EXPERIMENT_NAME="nvembed",
        KFP_RUN_CREATE_PACKAGE_FILE=str(pipeline_file()),
    )
    assert done.returncode == 0, done.stderr
    assert kubeflow.submitted()["pipeline_spec"] == compiled()


def test_nvembed_submit_uploads_the_same_spec_with_recipe_and_overrides_as_parameters(kubeflow, capsys):
    code = submit("--recipe", "tiny", "--set", "stage1.steps=3", "--set", "stage2.steps=2", "--endpoint", kubeflow.url)
    assert code == 0
    run = kubeflow.submitted()
    assert run["pipeline_spec"] == compiled()
    assert run["runtime_config"]["parameters"] == {"recipe": "tiny", "overrides": "stage1.steps=3\nstage2.steps=2"}
    (run_id,) = kubeflow.runs
    assert f"{kubeflow.url}/#/runs/details/{run_id}" in capsys.readouterr().out


def test_a_recipe_file_travels_as_its_text_and_the_image_as_a_parameter(kubeflow, tmp_path, capsys):
    assert main(["recipe", "show", "tiny"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(text)
    assert submit("--recipe", str(tmp_path / "mine.yaml"), "--image", "here/nvembed:1", "--endpoint", kubeflow.url) == 0
    parameters = kubeflow.submitted()["runtime_config"]["parameters"]
    assert parameters["recipe"] == text
    assert parameters["image"] == "here/nvembed:1"


@pytest.mark.parametrize(("last", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1)])
def test_with_wait_the_exit_code_is_the_runs(kubeflow, capsys, last, code):
    kubeflow.states = ["PENDING", "RUNNING", last]
    assert submit("--recipe", "tiny", "--endpoint", kubeflow.url, "--wait", "--poll", "0.05") == code
    said = capsys.readouterr()
    assert last in said.out
    assert ("train-2" in said.err) == (last == "FAILED")


def test_a_lost_answer_while_waiting_does_not_lose_the_run(kubeflow):
    kubeflow.fail_next_looks = 2
    assert submit("--recipe", "tiny", "--endpoint", kubeflow.url, "--wait", "--poll", "0.05") == 0


def test_an_existing_experiment_is_used_again(kubeflow):
    for _ in range(2):
        assert submit("--recipe", "tiny", "--endpoint", kubeflow.url) == 0
    assert len(kubeflow.experiments) == 1
    assert len(kubeflow.runs) == 2


def test_the_endpoint_and_token_come_from_the_environment_and_the_token_is_never_shown(kubeflow, monkeypatch, capsys):
    kubeflow.token = "very-secret"
    monkeypatch.setenv("KFP_ENDPOINT", kubeflow.url)
    assert submit("--recipe", "tiny") == 2
    assert "KFP_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("KFP_TOKEN", "very-secret")
    assert main(["--verbose", "submit", "--recipe", "tiny"]) == 0
    said = capsys.readouterr()
    assert "very-secret" not in said.out + said.err
    assert len(kubeflow.runs) == 1


def test_in_a_pod_the_token_is_the_one_that_kubeflow_mounts(kubeflow, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("of-the-service-account\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    kubeflow.token = "of-the-service-account"
    assert submit("--recipe", "tiny", "--endpoint", kubeflow.url) == 0
    assert len(kubeflow.runs) == 1


def test_an_endpoint_that_cannot_be_reached_is_one_line_within_seconds(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        started = time.monotonic()
        assert submit("--recipe", "tiny", "--endpoint", f"http://127.0.0.1:{taken.getsockname()[1]}") == 2
    assert time.monotonic() - started < 6
    assert_one_line(capsys, "cannot be reached")


def test_an_endpoint_that_never_answers_is_one_line_within_seconds(capsys):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        assert submit("--recipe", "tiny", "--endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}") == 2
    assert time.monotonic() - started < 7
    assert_one_line(capsys, "cannot be reached")


def test_no_endpoint_at_all_is_told_with_a_way_out(capsys):
    assert submit("--recipe", "tiny") == 2
    assert_one_line(capsys, "--endpoint")


def test_a_data_file_of_this_machine_is_refused_without_a_store_and_no_run_is_made(kubeflow, tmp_path, capsys):
    (tmp_path / "my.jsonl").write_text("{}\n")
    code = submit("--recipe", "tiny", "--set", f"data.path={tmp_path / 'my.jsonl'}", "--endpoint", kubeflow.url)
    assert code == 2
    assert_one_line(capsys, "--upload-to")
    assert not kubeflow.runs


def test_a_data_file_of_this_machine_is_uploaded_under_its_digest_and_the_path_rewritten(kubeflow, tmp_path):
    file, store = tmp_path / "my.jsonl", f"file://{tmp_path}/store"
    file.write_text("{}\n")
    arguments = ["--recipe", "tiny", "--set", f"data.path={file}", "--endpoint", kubeflow.url, "--upload-to", store]
    assert submit(*arguments) == 0
    address = f"{store}/{digest_file(file)[:32]}/my.jsonl"
    told = kubeflow.submitted()["runtime_config"]["parameters"]["overrides"]
    assert told.splitlines()[-1] == f"data.path={address}"
    copy = Path(address.removeprefix("file://"))
    assert copy.read_bytes() == file.read_bytes()

    before = copy.stat().st_mtime_ns
    assert submit(*arguments) == 0
    assert copy.stat().st_mtime_ns == before


def test_a_folder_of_documents_is_uploaded_whole_and_half_an_upload_is_done_again(tmp_path):
    docs = tmp_path / "docs"
    (docs / "inner").mkdir(parents=True)
    (docs / "a.md").write_text("a")
    (docs / "inner" / "b.md").write_text("b")
    address = upload(docs, str(tmp_path / "store"), key="data.path")
    (Path(address) / "inner" / "b.md").unlink()
    (Path(address).parent / ".complete").unlink()
    assert upload(docs, str(tmp_path / "store"), key="data.path") == address
    assert sorted(str(file.relative_to(address)) for file in Path(address).rglob("*.md")) == ["a.md", "inner/b.md"]


def test_a_store_that_cannot_be_written_is_one_line(kubeflow, tmp_path, capsys):
    (tmp_path / "my.jsonl").write_text("{}\n")
    (tmp_path / "store").write_text("a file, no folder")
    code = submit(
        *("--recipe", "tiny", "--set", f"data.path={tmp_path / 'my.jsonl'}", "--endpoint", kubeflow.url),
        *("--upload-to", f"file://{tmp_path}/store"),
    )
    assert code == 2
    assert_one_line(capsys, "cannot be uploaded")
    assert not kubeflow.runs


def test_a_recurring_run_is_made_with_its_clock(kubeflow, capsys):
    assert submit("--recipe", "tiny", "--endpoint", kubeflow.url, "--every", "0 0 3 * * 1") == 0
    (made,) = kubeflow.recurring.values()
    assert made["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert made["runtime_config"]["parameters"]["recipe"] == "tiny"
    assert "/#/recurringrun/details/" in capsys.readouterr().out
    assert submit("--recipe", "tiny", "--endpoint", kubeflow.url, "--every", "0 0 3 * * 1", "--wait") == 2


def test_waiting_tells_how_each_task_stands_and_leaves_kfps_own_out(kubeflow, capsys):
    assert submit("--recipe", "tiny", "--endpoint", kubeflow.url, "--wait", "--poll", "0.01") == 0
    told = [line[9:] for line in capsys.readouterr().out.splitlines()[2:]]
    assert told == [
        *("  train-2: running", "  prepare-data: succeeded", "PENDING", "RUNNING"),
        *("  train-2: succeeded", "SUCCEEDED"),
    ]


@pytest.mark.parametrize("key", ["model.backbone", "mining.teacher.backbone"])
def test_a_model_of_this_machine_is_refused_before_anything_is_sent(kubeflow, tmp_path, capsys, key):
    assert submit("--recipe", "tiny", "--set", f"{key}={tmp_path}", "--endpoint", kubeflow.url) == 2
    assert_one_line(capsys, key)
    assert kubeflow.requests == []


@pytest.mark.parametrize("path", ["s3://bucket/my.jsonl", "/mnt/not-here/my.jsonl"])
def test_a_path_that_pods_can_read_is_accepted(kubeflow, path):
    assert submit("--recipe", "tiny", "--set", f"data.path={path}", "--endpoint", kubeflow.url) == 0


def test_dry_run_shows_the_parameters_and_sends_nothing(kubeflow, capsys):
    assert submit("--recipe", "tiny", "--set", "stage1.steps=3", "--endpoint", kubeflow.url, "--dry-run") == 0
    assert "stage1.steps=3" in capsys.readouterr().out
    assert kubeflow.requests == []


def test_a_parameter_the_pipeline_does_not_have_is_refused_with_the_known_ones(kubeflow, capsys):
    assert submit("--recipe", "tiny", "-p", "state_clam=x", "--endpoint", kubeflow.url) == 2
    assert_one_line(capsys, "state_claim")


def test_compile_writes_what_is_shipped(tmp_path):
    # in a process of its own: KFP looks through every module that is imported, which takes it most of a minute here
    subprocess.run([sys.executable, "-m", "nvembed.cli", "compile", "-o", str(tmp_path / "again.yaml")], check=True)
    again = list(yaml.safe_load_all((tmp_path / "again.yaml").read_text()))
    assert again == list(yaml.safe_load_all(pipeline_file().read_text()))


def assert_one_line(capsys, part: str) -> None:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert part in lines[0]
