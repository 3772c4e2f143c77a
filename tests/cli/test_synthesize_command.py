"""`nvembed synthesize`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_server import KEY, chat_server
from synthetic_documents import write_documents

from nvembed.cli import main
from nvembed.core.artifacts import read_manifest

WITHOUT_TEACHER = ["synthesis.quality.round_trip.enabled=false", "synthesis.quality.language=false"]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PLANTED_KEY", KEY)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def words(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def test_a_dry_run_tells_requests_tokens_and_cost_and_asks_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = write_documents(tmp_path / "docs")
    with chat_server() as server:
        asked = server.overrides(price_in=1.0, price_out=4.0)
        common = ["synthesize", "--recipe", "tiny", *words(f"data.path={documents}", *asked, *WITHOUT_TEACHER)]
        assert main([*common, "--dry-run"]) == 0
        table = capsys.readouterr().out
        assert main([*common, "--dry-run", "--json"]) == 0
        (part,) = json.loads(capsys.readouterr().out)

    assert not server.asked
    assert "in all" in table and "caps: none" in table and f"{part['sent']:,}" in table
    assert part["requests"] == 24 and part["cost"] > 0 and part["most"] > part["cost"]


def test_it_writes_both_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = write_documents(tmp_path / "docs")
    with chat_server() as server:
        overrides = [
            f"data.path={documents}",
            *server.overrides(),
            *WITHOUT_TEACHER,
            "synthesis.held_out.min_queries=2",
        ]
        out, eval_out = str(tmp_path / "out"), str(tmp_path / "eval")
        code = main(["synthesize", "--recipe", "tiny", *words(*overrides), "--out", out, "--eval-out", eval_out])

    assert code == 0, capsys.readouterr().err
    assert read_manifest(out, kind="dataset").counts["train_examples"] > 10
    assert read_manifest(eval_out, kind="eval")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], "synthesis.enabled is false"),
        (["synthesis.enabled=true"], "endpoints is empty"),
        (["synthesis.caps.max_requests=0"], "max_requests is 0, so nothing could be asked"),
        (["synthesis.endpoints=[{base_url: 'http://u:p@h/v1', model: m}]"], "holds a user, a password or a query"),
        (["synthesis.endpoints=[{base_url: 'h', model: m}]"], "is no http:// or https:// address"),
        (["synthesis.endpoints=[{base_url: 'http://h/v1', model: m, api_key: sk-secret}]"], "a recipe holds no key"),
        (["synthesis.passages={words: 10, overlap: 9}"], "more than half of words"),
    ],
)
def test_bad_input_is_told_in_one_line(overrides: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "--recipe", "tiny", *words(*overrides), "--dry-run"]) == 2

    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and "sk-secret" not in said


def test_a_folder_without_text_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    with chat_server() as server:
        overrides = [f"data.path={tmp_path / 'docs'}", *server.overrides(), *WITHOUT_TEACHER]
        assert main(["synthesize", "--recipe", "tiny", *words(*overrides), "--dry-run"]) == 2

    assert "holds no file of the formats" in capsys.readouterr().err
